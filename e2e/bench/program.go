package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// program is a process that is started again when it ends by itself, as systemd
// does with Restart=always: components that wait for each other give up and come
// back.
type program struct {
	*testbed
	name string
	argv []string
	env  []string

	mu       sync.Mutex
	process  *os.Process
	exited   chan struct{}
	wanted   bool
	restarts int
}

const (
	// restartAfter is systemd's default RestartSec.
	restartAfter = 100 * time.Millisecond
	// stopPatience is how long a program may take to end before it is killed.
	stopPatience = 60 * time.Second
)

func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted, p.restarts = true, 0
	return p.startLocked()
}

func (p *program) startLocked() error {
	cmd, err := p.logged(p.name, p.argv...)
	if err != nil {
		return err
	}
	log := cmd.Stdout.(*os.File)
	defer log.Close()
	cmd.Env = append(cmd.Env, p.env...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.process, p.exited = cmd.Process, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
		time.Sleep(restartAfter)
		p.startAgain(exited)
	}()
	return nil
}

// startAgain starts a program that was not told to stop, nor stopped and started
// since it ended. One that cannot be started is missed by whoever waits for the
// node.
func (p *program) startAgain(ended chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted && p.exited == ended {
		p.restarts++
		_ = p.startLocked()
	}
}

// stop ends the program; one that was never started has ended.
func (p *program) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = false
	if p.process == nil {
		return nil
	}
	if err := p.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopPatience):
		return errors.Join(fmt.Errorf("%s does not stop", p.name), p.process.Kill())
	}
}

func (p *program) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.Pid
}

// restarted is how often the program ended by itself.
func (p *program) restarted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}
