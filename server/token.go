package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/wire/jointoken"
	"brink/server/join"
	"brink/server/pki"
)

// keepServerToken makes the file with the server's own token and the Secret with
// it agree. The file rules: it outlives a datastore that is restored or replaced,
// and removing it makes a new token. A file that cannot be read as a token is
// written again, with the token that the Secret has or else with a new one: a
// cluster at the edge shall not stop for it, and nobody shall lose the token that
// is in use elsewhere.
func (s *Server) keepServerToken(ctx context.Context, client kubernetes.Interface) error {
	hash, err := caHash(s.cfg.Layout)
	if err != nil {
		return err
	}
	path := s.cfg.Layout.ServerToken()
	if err := atomicfile.Clean(filepath.Dir(path), filepath.Base(path)); err != nil {
		return err
	}
	token, err := readToken(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		token, err = jointoken.New(hash), nil
	case errors.Is(err, errDamagedToken):
		token, err = s.recoverToken(ctx, client, hash, err)
	}
	if err != nil {
		return err
	}
	token.CAHash = hash
	if err := atomicfile.Keep(path, []byte(token.Text()+"\n"), 0o600); err != nil {
		return err
	}
	return join.KeepServerToken(ctx, client, s.cfg.NodeName, token)
}

// recoverToken is the token that the Secret has, or a new one.
func (s *Server) recoverToken(ctx context.Context, client kubernetes.Interface, hash string, why error) (jointoken.Token, error) {
	token, found, err := join.ServerToken(ctx, client, s.cfg.NodeName)
	if err != nil {
		return jointoken.Token{}, err
	}
	if !found {
		token = jointoken.New(hash)
	}
	slog.Warn("the file of the server's own token is damaged and written again", "component", "join", "same token", found, "error", why)
	return token, nil
}

func caHash(l layout.Layout) (string, error) {
	bundle, err := os.ReadFile(pki.Dir(l.TLS()).ServerCA())
	if err != nil {
		return "", fmt.Errorf("reading the server CA: %w", err)
	}
	return jointoken.HashCA(bundle)
}

var errDamagedToken = errors.New("not a join token")

func readToken(path string) (jointoken.Token, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return jointoken.Token{}, fmt.Errorf("reading the server's token: %w", err)
	}
	token, err := jointoken.Parse(string(text))
	if err != nil {
		return jointoken.Token{}, fmt.Errorf("%s: %w: %w", path, errDamagedToken, err)
	}
	return token, nil
}
