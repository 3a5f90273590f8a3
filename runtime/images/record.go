package images

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"time"

	"brink/internal/atomicfile"
)

// stamp is what is known of an archive that was imported.
type stamp struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Images   []Image   `json:"images"`
	// Unusable says which of its images no pod of this node can use, and why.
	Unusable string `json:"unusable,omitempty"`
	// Broken says why nothing of it can be read. Images are then those of the archive
	// that it replaced, which stay pinned.
	Broken string `json:"broken,omitempty"`
}

// same reports whether both are of the same file, unchanged.
func (s stamp) same(o stamp) bool { return s.Size == o.Size && s.Modified.Equal(o.Modified) }

// problem returns what a pod of this node may miss of it, or "".
func (s stamp) problem() string { return cmp.Or(s.Broken, s.Unusable) }

// record is what was imported from a directory, by the path of an archive.
type record struct {
	path   string
	stamps map[string]stamp
	inFile []byte // the content of the file, as far as it is known
}

// readRecord returns what the file says. Without a readable record all archives are new,
// which costs time and nothing else.
func readRecord(path string) *record {
	r := &record{path: path, stamps: map[string]stamp{}}
	text, err := os.ReadFile(path)
	if err != nil {
		return r
	}
	if err := json.Unmarshal(text, &r.stamps); err != nil || r.stamps == nil {
		r.stamps = map[string]stamp{}
	}
	r.inFile = text
	return r
}

// names reports whether an archive of the record holds an image.
func (r *record) names(image string) bool {
	for _, s := range r.stamps {
		for _, i := range s.Images {
			if i.Name == image {
				return true
			}
		}
	}
	return false
}

// write writes the file unless it says the same already: a start without news costs no
// write to the flash card.
func (r *record) write() error {
	text, err := json.Marshal(r.stamps)
	if err != nil {
		return err
	}
	if bytes.Equal(text, r.inFile) || len(r.stamps) == 0 && r.inFile == nil {
		return nil
	}
	if err := atomicfile.Write(r.path, text, 0o600); err != nil {
		return err
	}
	r.inFile = text
	return nil
}
