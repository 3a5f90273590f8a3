// Command failing stands for a new version of brink that does not work. Every command but
// `brink server` and `brink agent` is that of a whole brink, at the path that is linked in. How
// it fails is in a file:
//
//	ends     it ends at once
//	hangs    it never does anything
//	uses     it starts, uses the state for a while, and ends
package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// whole is the path of a brink, and how that of the file; the linker sets both.
var whole, how string

func main() {
	if len(os.Args) < 2 || os.Args[1] != "server" && os.Args[1] != "agent" {
		_ = syscall.Exec(whole, append([]string{"brink"}, os.Args[1:]...), os.Environ())
		os.Exit(126)
	}
	text, _ := os.ReadFile(how)
	switch strings.TrimSpace(string(text)) {
	case "hangs":
		time.Sleep(1000 * time.Hour)
	case "uses":
		use()
	}
	os.Exit(1)
}

// use runs the whole brink for some seconds.
func use() {
	cmd := exec.Command(whole, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if cmd.Start() == nil {
		time.Sleep(8 * time.Second)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
