package containerd

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestStops reads a database that containerd's own code has written.
func TestStops(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta := metadata.NewDB(db, nil, nil)
	if err := meta.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	const cri = `{"Version":"v1","Metadata":{"ID":"x","StopSignal":%q,"Config":{"annotations":{"io.kubernetes.pod.terminationGracePeriod":%q}}}}`
	for id, said := range map[string]string{
		"web": fmt.Sprintf(cri, "SIGQUIT", "60"), "plain": fmt.Sprintf(cri, "", "0"), "odd": fmt.Sprintf(cri, "SIGNONE", "soon"), "sandbox": "",
	} {
		c := containers.Container{ID: id, Runtime: containers.RuntimeInfo{Name: "r"}, Spec: &anypb.Any{TypeUrl: "s"}}
		if said != "" {
			c.Extensions = map[string]typeurl.Any{criMetadata: &anypb.Any{TypeUrl: "x", Value: []byte(said)}}
		}
		if _, err := metadata.NewContainerStore(meta).Create(namespaces.WithNamespace(t.Context(), podNamespace), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := Stops(t.Context(), path)
	want := map[string]Stop{"web": {syscall.SIGQUIT, time.Minute}, "plain": {}}
	if err != nil || len(got) != len(want) || got["web"] != want["web"] || got["plain"] != want["plain"] {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	if _, err := Stops(t.Context(), filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("there is no database")
	}
}
