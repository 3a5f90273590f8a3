package upstream

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	kubeletserver "k8s.io/kubernetes/pkg/kubelet/server"

	"brink/internal/testprocess"
)

// notCalled are functions that end the process and are in the binary, but not
// called by brink: upstream's commands and signal handlers.
var notCalled = map[string][]string{
	"k8s.io/apiserver/pkg/server":                       {"SetupSignalContext"},
	"k8s.io/kubernetes/cmd/kube-scheduler/app":          {"NewSchedulerCommand", "Run"},
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options":  {"LogOrWriteConfig"}, // --write-config-to
	"k8s.io/kubernetes/cmd/kubelet/app":                 {"NewKubeletCommand"},
	"k8s.io/kubernetes/cmd/kube-controller-manager/app": {"Run"},
	"k8s.io/kubernetes/pkg/proxy":                       {"NewNodeManager"}, // only with watchPodCIDRs
}

// TestExitingFuncsAreAll reads what is linked: a new version of Kubernetes may end
// the process elsewhere.
func TestExitingFuncsAreAll(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	for _, path := range linkedKubernetes(t) {
		pkg, dir, _ := strings.Cut(path, " ")
		for _, function := range exiting(t, dir) {
			known := slices.Contains(exitingFuncs[pkg], function) || slices.Contains(notCalled[pkg], function)
			if !known {
				t.Errorf("%s.%s calls os.Exit: add it to exitingFuncs, or to notCalled if brink never gets there", pkg, function)
			}
			found[pkg+"."+function] = true
		}
	}
	for pkg, functions := range exitingFuncs {
		for _, function := range functions {
			if !found[pkg+"."+function] {
				t.Errorf("%s.%s does not call os.Exit any more: take it out of exitingFuncs", pkg, function)
			}
		}
	}
}

// linkedKubernetes lists the packages "path dir" of Kubernetes in the binary,
// but for kubectl, which is a command of its own and never a part of a node.
func linkedKubernetes(t *testing.T) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{.Dir}}", "brink")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "k8s.io/") && !strings.HasPrefix(line, "k8s.io/klog/") && !strings.HasPrefix(line, "k8s.io/kubectl/") {
			packages = append(packages, strings.TrimSpace(line))
		}
	}
	if len(packages) < 500 {
		t.Fatalf("only %d packages of Kubernetes are linked: the list is broken", len(packages))
	}
	return packages
}

// exiting returns the functions in dir that call os.Exit.
func exiting(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	paths, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "_test.go") || !bytes.Contains(text, []byte("os.Exit")) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && mentionsExit(f) {
				out = append(out, f.Name.Name)
			}
		}
	}
	return out
}

func mentionsExit(f *ast.FuncDecl) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Exit" {
			x, ok := s.X.(*ast.Ident)
			found = found || ok && x.Name == "os"
		}
		return true
	})
	return found
}

func TestEndsProcess(t *testing.T) {
	t.Parallel()
	cases := map[string]bool{
		"k8s.io/kubernetes/pkg/kubelet.(*Kubelet).Run":                                                    true,
		"k8s.io/kubernetes/pkg/kubelet.(*Kubelet).initializeRuntimeDependentModules":                      true,
		"k8s.io/kubernetes/pkg/kubelet/server.ListenAndServePodsServer.func2":                             true,
		"k8s.io/kubernetes/pkg/kubelet/certificate.UpdateTransport.updateTransport.addCertRotation.func1": true,
		"k8s.io/kubernetes/pkg/kubelet.(*Kubelet).syncNodeStatus":                                         false,
		"k8s.io/kubernetes/pkg/kubelet/status.(*manager).Run":                                             false,
		"main.Run": false,
		"":         false,
	}
	for function, want := range cases {
		if got := isExiting(function); got != want {
			t.Errorf("%s: %v, want %v", function, got, want)
		}
	}
}

// TestReasonIsShown has Kubernetes end a process that is still starting.
func TestReasonIsShown(t *testing.T) {
	ways := map[string]struct {
		end  func()
		want []string
	}{
		"os.Exit": {func() {
			endpoint := "unix://" + filepath.Join(os.Args[0], "no directory", "kubelet.sock")
			kubeletserver.ListenAndServePodResources(context.Background(), endpoint, podresources.PodResourcesProviders{})
		}, []string{"held back", "Failed to create listener for podResources endpoint", "not a directory"}},
		"klog.Fatal":        {func() { klog.Fatalf("no storage: %s", "disk on fire") }, []string{"held back", "disk on fire"}},
		"klog.FlushAndExit": {func() { klog.ErrorS(nil, "corrupt cache"); klog.FlushAndExit(0, 1) }, []string{"held back", "corrupt cache"}},
	}
	if way, ok := ways[testprocess.Argument()]; ok {
		Set(Options{Exit: os.Exit})
		klog.ErrorS(nil, "held back")
		way.end()
		t.Fatal("still running")
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := testprocess.Again(t, name)
			var stderr bytes.Buffer
			child.Stderr = &stderr
			if err := child.Run(); err == nil {
				t.Error("it did not end with an error")
			}
			for _, want := range way.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("nothing of %q in\n%s", want, stderr.String())
				}
			}
		})
	}
}

// TestKlogLines: klog's older calls arrive as text; what they say must not get
// lost by the level that it would have as a record.
func TestKlogLines(t *testing.T) {
	t.Parallel()
	cases := []struct{ line, want string }{
		{"I1124 21:42:00.203111    4711 file.go:9] all is well\n", ""},
		{"W1124 21:42:00.203111    4711 file.go:9] soon [x] gone\n", `level=WARN msg="soon [x] gone"`},
		{"E1124 21:42:00.203111    4711 file.go:9] gone\n", "level=ERROR msg=gone"},
		{"F1124 21:42:00.203111    4711 file.go:9] no storage\n", `level=ERROR msg="no storage"`},
		{"without a header", ""},
		{"", ""},
	}
	for _, c := range cases {
		var out bytes.Buffer
		start := newStartLog()
		klogLines(start, start.wrap(atLeast{slog.LevelWarn, slog.NewTextHandler(&out, nil)}))([]byte(c.line))
		if isFatal := strings.HasPrefix(c.line, "F"); !isFatal {
			if out.Len() > 0 {
				t.Errorf("%q is not held back: %s", c.line, out.String())
			}
			start.Show()
		}
		if got := out.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
}

// TestStartLogHolds: what means nothing is not shown, and not lost if it turns
// out to be the reason.
func TestStartLogHolds(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	start := newStartLog()
	log := slog.New(start.wrap(slog.NewTextHandler(&out, nil)))
	log.Error("early")
	if out.Len() > 0 {
		t.Errorf("shown at once: %s", out.String())
	}
	start.Show()
	log.Error("late")
	if got := out.String(); !strings.Contains(got, "early") || !strings.Contains(got, "late") {
		t.Errorf("got %q", got)
	}
}
