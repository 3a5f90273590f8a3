package initsystem

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
)

// unit is what systemd says of a service.
type unit struct {
	name     string
	mainPID  int
	commands [][]string // of ExecStart and ExecStop: the program's path, then arguments
	env      []string   // its own variables
	envFiles []string
}

// systemdServices asks for all units that are loaded, which one that waits for its next
// restart is, and one that is enabled.
func (m machine) systemdServices(ctx context.Context, q Query) ([]Service, error) {
	text, err := m.run(ctx, "systemctl", "show", "--all", "-p", "Id,MainPID,ExecStart,ExecStop,Environment,EnvironmentFiles", "*.service")
	if err != nil {
		return nil, err
	}
	own := m.unitOf(os.Getpid())
	var out []Service
	for _, u := range parseUnits(text) {
		if u.name == own {
			continue // this command runs in it
		}
		if s, ok := m.systemdService(u, q); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

func (m machine) systemdService(u unit, q Query) (Service, bool) {
	s := Service{Init: Systemd, Name: u.name}
	if q.PID != 0 && u.mainPID == q.PID {
		s.IsDaemon = true
		return s, true
	}
	env := slices.Clone(u.env)
	for _, file := range u.envFiles {
		env = append(env, m.variables(file)...)
	}
	isOurs := false
	for _, command := range u.commands {
		if isBrink(command[0]) && q.Uses(command[1:], env) {
			isOurs, s.IsDaemon = true, s.IsDaemon || isDaemon(command[1:])
		}
	}
	return s, isOurs
}

// parseUnits reads what `systemctl show` prints: NAME=VALUE lines, an empty line between
// units.
func parseUnits(text string) []unit {
	var out []unit
	for block := range strings.SplitSeq(text, "\n\n") {
		var u unit
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch name {
			case "Id":
				u.name = value
			case "MainPID":
				u.mainPID, _ = strconv.Atoi(value)
			case "ExecStart", "ExecStop":
				if command := parseCommand(value); len(command) > 0 {
					u.commands = append(u.commands, command)
				}
			case "Environment":
				u.env = strings.Fields(value)
			case "EnvironmentFiles":
				path, _, _ := strings.Cut(value, " (")
				u.envFiles = append(u.envFiles, path)
			}
		}
		if u.name != "" {
			out = append(out, u)
		}
	}
	return out
}

// parseCommand reads systemd's form of a command:
//
//	{ path=/usr/local/bin/brink ; argv[]=/usr/local/bin/brink server --debug ; ignore_errors=no ; ... }
//
// Words are not quoted in it. One with a blank falls into pieces, which matters to nobody
// here but for a data directory with a blank in its name.
func parseCommand(value string) []string {
	_, rest, ok := strings.Cut(value, "path=")
	path, rest, ok2 := strings.Cut(rest, " ; argv[]=")
	argv, _, ok3 := strings.Cut(rest, " ; ignore_errors=")
	words := strings.Fields(argv)
	if !ok || !ok2 || !ok3 || len(words) == 0 {
		return nil
	}
	return append([]string{path}, words[1:]...)
}

// unitOf returns the service that a process is part of, by the name of its control group.
func (m machine) unitOf(pid int) string {
	for line := range strings.Lines(m.read("proc/" + strconv.Itoa(pid) + "/cgroup")) {
		_, group, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(group, ":")
		if controllers != "" && controllers != "name=systemd" || strings.Contains(path, "/user@") {
			continue
		}
		for name := range strings.SplitSeq(path, "/") {
			if strings.HasSuffix(name, ".service") {
				return name
			}
		}
	}
	return ""
}
