// Package testdatabase runs a PostgreSQL, MariaDB or etcd for a test, on a data
// directory of its own and without touching the one that the machine may have.
//
// Servers refuse to run as root, so they run as nobody. They die with the
// process that started them.
package testdatabase

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Kind is which database.
type Kind string

// The kinds there are.
const (
	Postgres Kind = "postgres"
	MariaDB  Kind = "mariadb"
	Etcd     Kind = "etcd" // built from its sources, see the module in etcd/
)

const (
	// User and Password are those of every server.
	User, Password = "kine", "s3cret-of-the-test"
	nobody         = "65534"
	// patience is for a server to start or stop on a busy machine.
	patience = 90 * time.Second
)

// ErrMissing says that the machine does not have the database's programs.
var ErrMissing = errors.New("is not installed")

// Server is one server on a directory of its own.
type Server struct {
	Kind Kind
	// Dir holds its data and its socket. It is short: sockets' paths are limited.
	Dir string
	// Listen is an address as 127.0.0.1:5432; empty for the socket alone.
	Listen string
	// Command makes a command that runs where the server shall; nil is here.
	Command func(argv ...string) *exec.Cmd

	programs map[string]string
	peers    string // where an etcd listens for others of its cluster
	cmd      *exec.Cmd
	ended    chan struct{}
	log      *os.File
}

var programs = map[Kind][]string{
	Postgres: {"initdb", "postgres", "psql"},
	MariaDB:  {"mariadb-install-db", "mariadbd", "mariadb"},
}

// find looks where Debian keeps the programs: those of PostgreSQL are not in PATH.
func find(kind Kind) (map[string]string, error) {
	found := map[string]string{}
	for _, name := range programs[kind] {
		path, err := exec.LookPath(name)
		places := []string{"/usr/sbin/" + name}
		if more, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(more) > 0 {
			places = append(places, more[len(more)-1])
		}
		for _, place := range places {
			if _, statErr := os.Stat(place); err != nil && statErr == nil {
				path, err = place, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s %w", kind, name, ErrMissing)
		}
		found[name] = path
	}
	return found, nil
}

// Init makes the data directory.
func (s *Server) Init() (err error) {
	if s.programs, err = find(s.Kind); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return err
	}
	if s.log, err = os.Create(s.Dir + ".log"); err != nil {
		return err
	}
	if s.Kind == Etcd {
		return s.initEtcd()
	}
	password, setup := s.path("password"), s.path("setup.sql")
	files := map[string]string{
		password: Password,
		setup: fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'localhost' IDENTIFIED BY '%s';\nCREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s';\n"+
			"GRANT ALL ON *.* TO '%s'@'localhost';\nGRANT ALL ON *.* TO '%s'@'%%';\n", User, Password, User, Password, User, User),
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.path("tmp"), 0o755); err != nil {
		return err
	}
	if err := s.handOver(); err != nil {
		return err
	}
	argv := []string{s.programs["initdb"], "-D", s.path("data"), "-U", User, "-A", "scram-sha-256", "--pwfile=" + password, "-N", "--no-locale", "-E", "UTF8"}
	if s.Kind == MariaDB {
		argv = []string{s.programs["mariadb-install-db"], "--no-defaults", "--datadir=" + s.path("data"), "--auth-root-authentication-method=normal", "--skip-test-db",
			"--tmpdir=" + s.path("tmp")} // a server that starts removes the temporary tables of others
	}
	if out, err := s.command(argv...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, bytes.TrimSpace(out))
	}
	if s.Kind == Postgres {
		return s.letIn()
	}
	return nil
}

// letIn allows clients from other machines, with the password.
func (s *Server) letIn() error {
	f, err := os.OpenFile(s.path("data/pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("host all all 0.0.0.0/0 scram-sha-256\n")
	return errors.Join(err, f.Close())
}

// SQL runs a statement as the database's administrator does.
func (s *Server) SQL(database, statement string) error {
	client := []string{s.programs["psql"], "-q", "-v", "ON_ERROR_STOP=1", s.local(database), "-c", statement}
	if s.Kind == MariaDB {
		client = []string{s.programs["mariadb"], "--no-defaults", "--socket=" + s.socket(), "--user=" + User, "--password=" + Password, database, "-e", statement}
	}
	if out, err := s.command(client...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", statement, err, bytes.TrimSpace(out))
	}
	return nil
}

// local is a PostgreSQL by its socket.
func (s *Server) local(database string) string {
	_, port, _ := strings.Cut(filepath.Base(s.socket()), "PGSQL.")
	return fmt.Sprintf("postgres://%s:%s@/%s?host=%s&port=%s", User, Password, database, s.Dir, port)
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }

// handOver gives the directory to the user that the server runs as.
func (s *Server) handOver() error {
	if os.Getuid() != 0 {
		return nil
	}
	return filepath.WalkDir(s.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 65534, 65534)
	})
}

func (s *Server) command(argv ...string) *exec.Cmd {
	if os.Getuid() == 0 {
		argv = append([]string{"setpriv", "--pdeathsig=KILL", "--reuid=" + nobody, "--regid=" + nobody, "--clear-groups", "--"}, argv...)
	}
	if s.Command != nil {
		return s.Command(argv...)
	}
	return exec.Command(argv[0], argv[1:]...)
}

// Start runs the server and returns when it takes connections.
func (s *Server) Start() error {
	deadline := time.Now().Add(patience)
	for {
		err := s.tryStart(deadline)
		// After a kill -9 what is left of the old server may take a moment to go.
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (s *Server) tryStart(deadline time.Time) error {
	info, err := s.log.Stat()
	if err != nil {
		return err
	}
	from := info.Size()
	s.cmd = s.command(s.argv()...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = "/", s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd, s.ended)
	for {
		if s.says(from, "ready for connections", "ready to accept connections", "ready to serve client requests") {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("%s ended: %v\n%s", s.Kind, s.cmd.ProcessState, s.Log())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%s does not take connections after %v\n%s", s.Kind, patience, s.Log()), s.Kill())
		}
	}
}

// says tells whether the server has written one of texts after so many bytes.
// MariaDB loses a signal that comes before: its socket is there much earlier.
func (s *Server) says(from int64, texts ...string) bool {
	written, err := os.ReadFile(s.log.Name())
	return err == nil && slices.ContainsFunc(texts, func(text string) bool {
		return bytes.Contains(written[min(from, int64(len(written))):], []byte(text))
	})
}

func (s *Server) argv() []string {
	if s.Kind == Etcd {
		return s.etcdArgv()
	}
	host, port, _ := net.SplitHostPort(s.Listen)
	if s.Kind == Postgres {
		argv := []string{s.programs["postgres"], "-D", s.path("data"), "-k", s.Dir, "-c", "listen_addresses=" + host, "-c", "shared_buffers=16MB"}
		if port != "" {
			argv = append(argv, "-p", port)
		}
		return argv
	}
	argv := []string{s.programs["mariadbd"], "--no-defaults", "--datadir=" + s.path("data"), "--tmpdir=" + s.path("tmp"), "--socket=" + s.socket(),
		"--pid-file=" + s.path("pid"), "--init-file=" + s.path("setup.sql"), "--innodb-buffer-pool-size=32M", "--skip-name-resolve"} // which takes seconds where no DNS answers
	if host == "" {
		return append(argv, "--skip-networking")
	}
	return append(argv, "--bind-address="+host, "--port="+port)
}

// socket is where the server listens in any case.
func (s *Server) socket() string {
	if s.Kind == MariaDB {
		return s.path("socket")
	}
	port := "5432"
	if _, p, err := net.SplitHostPort(s.Listen); err == nil {
		port = p
	}
	return s.path(".s.PGSQL." + port)
}

// Endpoint is what a client is told, with the password in it.
func (s *Server) Endpoint(database string) string {
	switch {
	case s.Kind == Etcd:
		return "http://" + s.Listen
	case s.Kind == Postgres && s.Listen == "":
		return fmt.Sprintf("postgres://%s:%s@/%s?host=%s", User, Password, database, s.Dir)
	case s.Kind == Postgres:
		return fmt.Sprintf("postgres://%s:%s@%s/%s", User, Password, s.Listen, database)
	case s.Listen == "":
		return fmt.Sprintf("mysql://%s:%s@unix(%s)/%s", User, Password, s.socket(), database)
	}
	return fmt.Sprintf("mysql://%s:%s@tcp(%s)/%s", User, Password, s.Listen, database)
}

// Stop has the server end in its own way, with connections open.
func (s *Server) Stop() error {
	sig := syscall.SIGTERM
	if s.Kind == Postgres {
		sig = syscall.SIGINT // fast; SIGTERM waits for clients
	}
	return s.end(sig)
}

// Kill ends the server as a power cut of its machine does, but for what the
// kernel has not written yet.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	if s.cmd == nil || s.cmd.Process == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s runs on after %v\n%s", s.Kind, sig, s.Log())
	}
}

// Signal sends sig to the server, such as SIGSTOP for one that hangs.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Log is the end of what the server has written.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-4000):]))
}

// Close ends the server and removes its directory.
func (s *Server) Close() error {
	err := s.Kill()
	if s.log != nil {
		_ = s.log.Close()
		_ = os.Remove(s.log.Name())
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}
