package containerd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"

	"brink/internal/lifecycle"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// redirectLogs sets containerd's process-wide logger. It gets one of its own, as other
// libraries in the process write to logrus' standard one too. Lines go to slog as
// component=containerd.
//
// containerd calls Fatal when a plugin's background work fails, which would end all of
// brink. Here Fatal ends the goroutine alone, and the returned channel gets the reason,
// so that the component fails in order.
func redirectLogs(debug bool) <-chan error {
	crashed := make(chan error, 1)
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetFormatter(toSlog{crashed, debug})
	l.SetLevel(logrus.WarnLevel)
	if debug {
		l.SetLevel(logrus.DebugLevel)
	}
	l.ExitFunc = func(int) { runtime.Goexit() }
	log.L = logrus.NewEntry(l)
	return crashed
}

// QuietLogs has containerd's libraries log their warnings alone, for a command that uses
// them without a node.
func QuietLogs() { redirectLogs(false) }

// toSlog is a formatter that passes each line on to slog. It returns no bytes.
type toSlog struct {
	crashed chan<- error
	debug   bool
}

// expected are the beginnings of warnings that every healthy start logs: the network's
// configuration is written only after the node has its address range, few file systems
// have fs-verity, and this version has no other place for credentials.
var expected = []string{
	"failed to load cni during init",
	"failed check for fsverity support",
	"`configs` is deprecated",
}

// isExpected reports whether a warning says nothing is wrong: it is in expected, or is
// about the network's configuration while that is being written, under a hidden name
// beside its place. containerd reads the directory at every change.
func isExpected(message string) bool {
	name := message[strings.LastIndex(message, "/")+1:]
	if strings.HasPrefix(message, "failed to reload cni configuration") && strings.HasPrefix(name, ".") {
		return true
	}
	return slices.ContainsFunc(expected, func(e string) bool { return strings.HasPrefix(message, e) })
}

// secretAfter are the words after which containerd's CRI prints, at its debug level, what
// a container gets: environment variables, which may come from a Secret, its command
// line, into which the kubelet puts them, and commands that are executed in it. The last
// line is for all other places: it has the words with which such values begin.
var secretAfter = []string{
	"Sandbox config ", "Container config ", " spec: ", " with command ",
	"Loaded sandbox ", "Loaded container ", "failed to add sandbox ",
	" envs:{", " Config:", "Env:([",
}

// secretFields are headers that give access to whoever has them: a session, or a signed
// address.
var secretFields = []string{"request.header.cookie", "response.header.set-cookie", "response.header.location"}

// withoutSecrets cuts a message where secrets may begin.
func withoutSecrets(message string) string {
	for _, words := range secretAfter {
		if before, _, found := strings.Cut(message, words); found {
			return before + words + "(left out: it may hold secrets)"
		}
	}
	return message
}

func (f toSlog) Format(e *logrus.Entry) ([]byte, error) {
	if !f.debug && isExpected(e.Message) {
		return nil, nil
	}
	attrs := []slog.Attr{slog.String("component", component)}
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		if !slices.Contains(secretFields, key) {
			attrs = append(attrs, slog.Any(key, e.Data[key]))
		}
	}
	slog.LogAttrs(context.Background(), slogLevel(e.Level), withoutSecrets(e.Message), attrs...)
	if e.Level == logrus.FatalLevel {
		select {
		case f.crashed <- fatal(e):
		default: // the first reason is enough
		}
	}
	return nil, nil
}

func fatal(e *logrus.Entry) error {
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		return fmt.Errorf("%s: %w", e.Message, err)
	}
	return errors.New(e.Message)
}

func slogLevel(l logrus.Level) slog.Level {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		return slog.LevelError
	case logrus.WarnLevel:
		return slog.LevelWarn
	case logrus.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// keepKlogVerbosity returns a function that sets klog's verbosity back to what it is
// now. containerd's CRI sets it from its own log level, for the whole process, where it
// is Kubernetes' to set.
func keepKlogVerbosity() (restore func(context.Context)) {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	v := flags.Lookup("v").Value.String()
	return func(ctx context.Context) {
		if err := flags.Set("v", v); err != nil {
			lifecycle.Logger(ctx).Warn("restoring the log verbosity", "error", err)
		}
	}
}
