package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"brink/e2e/machine"
	"brink/internal/layout"
)

// patience bounds every wait.
const patience = machine.Patience

// janitor erases what the tests leave when they are killed.
var janitor *machine.Janitor

// newMachine is a machine for a brink that keeps its data below the machine's
// directory.
func newMachine() (*machine.Machine, error) { return newMachineOn(near) }

func newMachineOn(segment machine.Segment) (*machine.Machine, error) {
	return makeMachine(machine.Config{Overlaid: []string{"etc", "var", "usr", "opt"}, Segment: segment})
}

// newDefaultMachine is a machine whose /var is its own, so that brink can be
// installed there as anybody would, with its data where it is by default.
func newDefaultMachine() (*machine.Machine, error) {
	return makeMachine(machine.Config{
		Overlaid: []string{"etc", "usr", "opt"}, Fresh: []string{"var"}, Data: layout.DefaultData, Segment: near,
	})
}

func makeMachine(c machine.Config) (m *machine.Machine, err error) {
	if c.Switch, err = sharedLAN(); err != nil {
		return nil, err
	}
	c.Prefix, c.Parent, c.Program, c.Janitor = "brink-e2e-", "/tmp", brinkBinary, janitor
	return machine.New(c)
}

// node is a machine.Node with what tests ask of it.
type node struct{ *machine.Node }

// newNode prepares a server with the test images and the given lines in its
// configuration. Nothing is started.
func newNode(config ...string) (*node, error) {
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	return prepared(machine.NewServer(m, config...))
}

// newAgent prepares a machine that is an agent of the server.
func newAgent(server *node, config ...string) (*node, error) {
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	return newAgentOn(m, server, config...)
}

func newAgentOn(m *machine.Machine, server *node, config ...string) (*node, error) {
	return prepared(machine.NewAgent(m, server.Node, config...))
}

// prepared gives a node its files. With an error it returns the node too, which must
// be destroyed.
func prepared(n *machine.Node) (*node, error) {
	return &node{n}, errors.Join(n.WriteConfig(), n.AddImages(imageArchive))
}

// newDefaultNode prepares a machine for a brink of which only its name and its
// cgroup root are set, since it shares its host with others.
func newDefaultNode() (*node, error) {
	m, err := newDefaultMachine()
	if err != nil {
		return nil, err
	}
	n := machine.NewServer(m)
	return &node{n}, n.WriteConfig()
}

// startNode gives a test a node of its own. At its end brink is uninstalled, and
// leaving something behind fails the test.
func startNode(t *testing.T, config ...string) *node {
	t.Helper()
	n := prepareNode(t, config...)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n
}

// prepareNode is startNode without the start.
func prepareNode(t *testing.T, config ...string) *node {
	t.Helper()
	n, err := newNode(config...)
	if n != nil {
		n.closeAfter(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// closeAfter uninstalls and destroys the node at the end of a test.
func (n *node) closeAfter(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() && n.Starts > 0 {
			t.Log(n.LogTail())
		}
		if err := errors.Join(n.Uninstall(), n.Destroy()); err != nil {
			t.Error(err)
		}
	})
}

// TestDestroy: of a process that only the namespace leads to, such as a brink
// whose stop has failed, nothing may stay.
func TestDestroy(t *testing.T) {
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(t.Context(), "sleep", "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(errors.Join(err, m.Destroy()))
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	err = eventually(func() error {
		if line := machine.CommandLine(cmd.Process.Pid); line != "sleep 100000" {
			return fmt.Errorf("the command has not begun: %s", line)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := m.Destroy(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("process %d of the machine lives on", cmd.Process.Pid)
		_ = cmd.Process.Kill()
	}
	if _, err := os.Stat(m.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the machine's directory is there: %v", err)
	}
}
