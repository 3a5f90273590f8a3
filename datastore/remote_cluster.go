package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/wire/jointoken"
)

// cluster is the cluster that a data directory belongs to.
type cluster struct {
	caFile string
	place  string // of the database
}

// hash returns the hash of the server's CA, as join tokens have it, and the CA itself. Both
// are empty when there is no CA yet.
func (c cluster) hash() (string, []byte, error) {
	bundle, err := os.ReadFile(c.caFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("reading the server's CA: %w", err)
	}
	hash, err := jointoken.HashCA(bundle)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", c.caFile, err)
	}
	return hash, bundle, nil
}

// owns compares what a database says about its cluster with the CA. found is a
// CA that objects in it name, for databases that say nothing themselves.
func (c cluster) owns(said string, found []byte) error {
	hash, bundle, err := c.hash()
	if err != nil {
		return err
	}
	dir := filepath.Dir(c.caFile)
	switch {
	case hash == "" && said != "":
		return fmt.Errorf("the database at %s is that of the cluster with the CA sha256:%s, and there is no CA in %s: restore that directory from the cluster's server, or give an empty database",
			c.place, said, dir)
	case hash == "" && found != nil:
		return fmt.Errorf("the database at %s holds a cluster, and there is no CA in %s: restore that directory from the cluster's server, or give an empty database", c.place, dir)
	case said != "" && said != hash:
		return fmt.Errorf("the database at %s is that of another cluster, with the CA sha256:%s; that in %s is sha256:%s: restore the other cluster's directory there, or give this cluster's database",
			c.place, said, dir, hash)
	case said == "" && found != nil && !namesCA(found, bundle):
		return fmt.Errorf("the database at %s is that of another cluster: its objects name another CA than %s: restore the other cluster's directory there, or give this cluster's database", c.place, c.caFile)
	}
	return nil
}

// namesCA reports whether the stored ConfigMap with the cluster's CA contains bundle.
// An encrypted one cannot be compared and counts as if it did.
func namesCA(object, bundle []byte) bool {
	text := string(object)
	if strings.HasPrefix(text, "k8s:enc:") || !strings.Contains(text, "BEGIN CERTIFICATE") {
		return true
	}
	return strings.Contains(withoutBreaks.Replace(text), withoutBreaks.Replace(string(bundle)))
}

// withoutBreaks removes what the encodings of stored objects write differently in a text
// of several lines: JSON escapes the ends of lines, YAML indents the lines.
var withoutBreaks = strings.NewReplacer(`\n`, "", "\n", "", " ", "")
