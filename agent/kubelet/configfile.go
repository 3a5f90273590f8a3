package kubelet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/util/codec"

	"brink/internal/componentargs"
)

// The user's configuration files (--kubelet-arg=config=FILE and config-dir=DIRECTORY)
// rank between brink's defaults and the user's flags. Upstream merges drop-ins into a
// file by JSON and then parses the flags over the result. Here the files are merged
// into brink's defaults in the same way, so that what they leave out stays brink's.

type object = map[string]any

// ownField is a field of the configuration that brink decides on, and the flag that a
// user can set instead.
type ownField struct{ name, instead string }

// learnt names the fields of ownFields whose values a joining machine gets from its
// cluster. CheckArgs cannot compare them before that.
var learnt = []string{"clusterDNS", "clusterDomain"}

var ownFields = []ownField{
	{"authentication", ""}, {"authorization", ""}, {"tlsCertFile", ""}, {"tlsPrivateKeyFile", ""}, {"serverTLSBootstrap", ""},
	{"enableServer", ""}, {"containerRuntimeEndpoint", ""}, {"imageServiceEndpoint", ""}, {"podLogsDir", ""},
	{"clusterDNS", "--cluster-dns"}, {"clusterDomain", "--cluster-domain"},
	// Other parts of brink must know these, and read the flags.
	{"port", "--kubelet-arg=port=PORT"}, {"cgroupRoot", "--kubelet-arg=cgroup-root=PATH"}, {"registerWithTaints", "--node-taint"},
	{"logging", "--debug"},
}

// wholeFields are maps that a user's file replaces as a whole, as the flags of the same
// names do.
var wholeFields = []string{"evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim", "kubeReserved", "systemReserved", "qosReserved"}

// mergeFiles merges the user's files into config, which has brink's defaults.
func mergeFiles(config *kubeletconfig.KubeletConfiguration, flags *options.KubeletFlags) error {
	given, dir, err := readFiles(flags.KubeletConfigFile, flags.KubeletDropinConfigDirectory)
	if err != nil || given == nil {
		return err
	}
	base, err := toObject(config)
	if err != nil {
		return err
	}
	if err := takeOwn(base, given); err != nil {
		return err
	}
	if meansDefault(given[driverField]) {
		delete(given, driverField)
	}
	for _, name := range wholeFields {
		if _, ok := given[name]; ok {
			delete(base, name)
		}
	}
	if given["kubeReserved"] != nil || given["systemReserved"] != nil || given["reservedMemory"] != nil {
		delete(base, "kubeReserved")
		delete(base, "systemReserved")
	}
	return fromObject(mergePatch(base, given), dir, config)
}

// mergeFilesAndFlags merges the user's files into brink's defaults, and then parses the
// user's flags once more over the result, as upstream does.
func mergeFilesAndFlags(cfg Config, flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration) error {
	if flags.KubeletConfigFile != "" || flags.KubeletDropinConfigDirectory != "" {
		without, err := withDefaults(cfg)
		if err != nil {
			return err
		}
		*config = *without
		if err := mergeFiles(config, flags); err != nil {
			return err
		}
		gates := config.FeatureGates
		fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
		options.NewKubeletFlags().AddFlags(fs)
		options.AddKubeletConfigFlags(fs, config)
		if err := componentargs.Parse(fs, "kubelet-arg", nil, cfg.Args); err != nil {
			return err
		}
		for gate, on := range gates {
			if _, ok := config.FeatureGates[gate]; !ok {
				config.FeatureGates[gate] = on
			}
		}
	}
	// The flag does not set this field: upstream takes a yes from either.
	if slices.ContainsFunc(cfg.Args, func(arg string) bool { return componentargs.Name(arg) == "seccomp-default" }) {
		config.SeccompDefault = flags.SeccompDefault
	}
	return nil
}

// withDefaults returns the configuration with brink's defaults, without the user's flags.
func withDefaults(cfg Config) (*kubeletconfig.KubeletConfiguration, error) {
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	flags := options.NewKubeletFlags()
	apply(cfg, flags, config)
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, config)
	return config, componentargs.Parse(fs, "kubelet-arg", defaults(cfg), nil)
}

// readFiles returns the user's files merged, nil when there are none, and the directory
// to which paths in them are relative.
func readFiles(file, dropins string) (object, string, error) {
	var paths []string
	var dir string
	if dropins != "" {
		dir = dropins
		err := filepath.WalkDir(dropins, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Ext(path) == ".conf" { // as upstream
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return nil, "", fmt.Errorf("--kubelet-arg=config-dir=%s: %w", dropins, err)
		}
	}
	if file != "" {
		dir = filepath.Dir(file)
		paths = slices.Insert(paths, 0, file)
	}
	var given object
	for _, path := range paths {
		one, err := readFile(path)
		if err != nil {
			return nil, "", fmt.Errorf("reading the kubelet's configuration %s: %w", path, err)
		}
		given = mergePatch(given, one)
	}
	dir, err := filepath.Abs(dir)
	return given, dir, err
}

// readFile refuses what upstream ignores, with a warning or without: fields that do not
// exist, and a second document.
func readFile(path string) (object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 0; ; n++ {
		one, err := documents.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, oneLine(err)
		}
		if n > 0 && len(bytes.TrimSpace(one)) > 0 {
			return nil, errors.New("there is a second document in it: a file has one")
		}
	}
	_, codecs, err := scheme.NewSchemeAndCodecs(serializer.EnableStrict)
	if err != nil {
		return nil, err
	}
	err = recovered(func() error {
		_, _, err := codecs.UniversalDecoder().Decode(text, nil, nil)
		return err
	})
	if err != nil {
		return nil, oneLine(err)
	}
	asJSON, kind, err := codec.DecodeKubeletConfigurationIntoJSON(codecs, text)
	if err != nil {
		return nil, oneLine(err)
	}
	if want := kubeletv1beta1.SchemeGroupVersion.WithKind("KubeletConfiguration"); kind == nil || *kind != want {
		return nil, fmt.Errorf("it must be a %s of %s", want.Kind, want.GroupVersion())
	}
	var out object
	return out, json.Unmarshal(asJSON, &out)
}

// recovered returns a panic of f as an error. Upstream's defaulting panics for feature
// gates that contradict each other.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return f()
}

func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}

// takeOwn removes the fields that brink decides on from given, and refuses values that
// disagree. Files from elsewhere list many fields with the value that means the default.
func takeOwn(base, given object) error {
	var wrong []string
	for _, own := range ownFields {
		if base[own.name] == nil && slices.Contains(learnt, own.name) {
			delete(given, own.name)
			continue
		}
		for _, name := range differences(own.name, base[own.name], given[own.name]) {
			if own.instead != "" {
				name += " (use " + own.instead + ")"
			}
			wrong = append(wrong, name)
		}
		delete(given, own.name)
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the kubelet's configuration file: brink decides on %s: leave it out", strings.Join(wrong, ", "))
}

// differences returns the names of the values below name that are given and differ from
// base.
func differences(name string, base, given any) []string {
	if fields, ok := given.(object); ok {
		below, _ := base.(object)
		var out []string
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			out = append(out, differences(name+"."+field, below[field], fields[field])...)
		}
		return out
	}
	if meansDefault(given) || reflect.DeepEqual(base, given) {
		return nil
	}
	return []string{name}
}

// meansDefault reports whether a value means the default. A false does not.
func meansDefault(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0" || v == "0s"
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// mergePatch merges patch into base as RFC 7386 does. It may change both.
func mergePatch(base, patch object) object {
	if base == nil {
		base = object{}
	}
	for name, value := range patch {
		switch v := value.(type) {
		case nil:
			delete(base, name)
		case object:
			below, _ := base[name].(object)
			base[name] = mergePatch(below, v)
		default:
			base[name] = v
		}
	}
	return base
}

func toObject(config *kubeletconfig.KubeletConfiguration) (object, error) {
	var versioned kubeletv1beta1.KubeletConfiguration
	if err := v1beta1.Convert_config_KubeletConfiguration_To_v1beta1_KubeletConfiguration(config, &versioned, nil); err != nil {
		return nil, err
	}
	text, err := json.Marshal(versioned)
	if err != nil {
		return nil, err
	}
	var out object
	return out, json.Unmarshal(text, &out)
}

// fromObject fills config and makes paths in it absolute.
func fromObject(from object, dir string, config *kubeletconfig.KubeletConfiguration) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	var versioned kubeletv1beta1.KubeletConfiguration
	if err := json.Unmarshal(text, &versioned); err != nil {
		return err
	}
	err = recovered(func() error {
		v1beta1.SetDefaults_KubeletConfiguration(&versioned)
		return nil
	})
	if err != nil {
		return oneLine(err)
	}
	var out kubeletconfig.KubeletConfiguration
	if err := v1beta1.Convert_v1beta1_KubeletConfiguration_To_config_KubeletConfiguration(&versioned, &out, nil); err != nil {
		return err
	}
	for _, path := range kubeletconfig.KubeletConfigurationPathRefs(&out) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	*config = out
	return nil
}
