package upstream

import (
	"bytes"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
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
