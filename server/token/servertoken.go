package token

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"

	"brink/internal/atomicfile"
	"brink/internal/lifecycle"
	"brink/internal/wire/jointoken"
)

// ServerToken is a server's own token, which does not expire: a file on its disk and a
// Secret in the cluster.
type ServerToken struct {
	File   string // has the token's text, one line, mode 0600
	CAFile string // the server CA, whose hash is part of the text
	Server string // the name of the server
}

// Sync makes the file and the Secret agree. The file rules: it outlives a datastore
// that is restored or replaced, and removing it makes a new token. A file that cannot
// be read as a token is written again, with the token of the Secret if there is one:
// a cluster at the edge must not stop for a damaged file, and machines that hold the
// token elsewhere must not lose it.
func (s ServerToken) Sync(ctx context.Context, client kubernetes.Interface) error {
	hash, err := CAHash(s.CAFile)
	if err != nil {
		return err
	}
	if err := atomicfile.Clean(filepath.Dir(s.File), filepath.Base(s.File)); err != nil {
		return err
	}
	t, err := readFile(s.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t, err = jointoken.New(hash), nil
	case errors.Is(err, errDamaged):
		t, err = s.recover(ctx, client, hash, err)
	}
	if err != nil {
		return err
	}
	t.CAHash = hash
	if err := atomicfile.Keep(s.File, []byte(t.Text()+"\n"), 0o600); err != nil {
		return err
	}
	return s.syncSecret(ctx, client, t)
}

// recover returns the token of the Secret, or a new one if there is none.
func (s ServerToken) recover(ctx context.Context, client kubernetes.Interface, hash string, reason error) (jointoken.Token, error) {
	t, found, err := s.fromCluster(ctx, client)
	if err != nil {
		return jointoken.Token{}, err
	}
	if !found {
		t = jointoken.New(hash)
	}
	lifecycle.Logger(ctx).Warn("the file of the server's own token is damaged and written again", "same token", found, "error", reason)
	return t, nil
}

// CAHash returns the hash of the CA in a file, by which agents know their cluster.
func CAHash(file string) (string, error) {
	bundle, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the server CA: %w", err)
	}
	return jointoken.HashCA(bundle)
}

var errDamaged = errors.New("not a join token")

func readFile(path string) (jointoken.Token, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return jointoken.Token{}, fmt.Errorf("reading the server's token: %w", err)
	}
	t, err := jointoken.Parse(string(text))
	if err != nil {
		return jointoken.Token{}, fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	return t, nil
}
