package payload

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"brink/internal/removetree"
)

// UnpackNFT unpacks brink's own nft alone, for a command that needs it where no node runs,
// and returns its directory. It goes into root if that exists, where the next start or
// uninstalling finds what a crash leaves, and otherwise into the directory for temporary
// files.
func UnpackNFT(root string) (dir string, remove func(), err error) {
	m, err := readManifest()
	if err != nil {
		return "", nil, err
	}
	if m.NFT == "" {
		return "", nil, errors.New("this build of brink carries no nft")
	}
	if _, err := os.Stat(root); err != nil {
		root = os.TempDir()
	}
	tmp, err := os.MkdirTemp(root, tempPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("unpacking nft: %w", err)
	}
	remove = func() { _ = removetree.All(tmp) } // see root above
	p := Programs{path: tmp}
	if err := extract(tmp, nftFiles(m)); err != nil {
		remove()
		return "", nil, fmt.Errorf("unpacking nft to %s: %w", root, shorten(err))
	}
	return p.NFT(), remove, nil
}

func nftFiles(m manifest) []file {
	var out []file
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, nftDir+"/") {
			out = append(out, f)
		}
	}
	return out
}
