package testdatabase

import (
	"errors"
	"os"
	"testing"

	"brink/internal/testneed"
)

// What is written stays through a stop and a kill: tests of those rely on it.
func TestServersComeBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Postgres, MariaDB} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "db")
			if err != nil {
				t.Fatal(err)
			}
			s := &Server{Kind: kind, Dir: dir}
			t.Cleanup(func() { _ = s.Close() })
			if err := s.Init(); errors.Is(err, ErrMissing) {
				testneed.Missing(t, err)
			} else if err != nil {
				t.Fatal(err)
			}
			system := map[Kind]string{Postgres: "postgres", MariaDB: "mysql"}[kind]
			statement := "CREATE TABLE kept (id INTEGER)"
			if kind == MariaDB {
				statement = "CREATE TABLE mysql.kept (id INTEGER)"
			}
			for _, end := range []func() error{s.Stop, s.Kill, s.Stop} {
				if err := errors.Join(s.Start(), s.SQL(system, statement), end()); err != nil {
					t.Fatal(err)
				}
				statement = "INSERT INTO kept VALUES (1)"
			}
		})
	}
}
