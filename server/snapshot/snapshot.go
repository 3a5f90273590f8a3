// Package snapshot keeps a cluster's state in one file and puts it back: the database of
// SQLite, the authorities and certificates, and the server's token. That is all that a new
// card needs to be the same server of the same cluster. What nodes have (images, pods) and the
// user's own configuration in /etc/brink are no part of it.
//
// The file is a tar archive, compressed by zstd, with mode 0600: who has it has the cluster.
// The first entry is manifest.json, the Manifest below, with the sum of each other entry.
// Entries are regular files, named as below the data directory, in the manifest's order.
// Whoever reads one checks all of it before anything takes its place: names by the table of
// package layout, sizes, sums, the database's structure and the checksum of each of its rows.
// A format with another number is refused.
//
// Restoring exchanges the directory server as a whole, by one system call, so that a kill at
// any moment leaves the old state or the new one. What was there before is kept beside it.
// Revisions go on far above those of the snapshot (datastore.PrepareRestored).
//
// A brink of another version than the one that used the data last makes a snapshot by itself
// before it opens the database (Begin). However the binary was exchanged, there is then a way
// back. Of these the last three are kept; what somebody asked for is never removed.
//
// Read in this order: state.go (who used the data last), write.go, read.go, restore.go,
// list.go, begin.go.
package snapshot

import (
	"time"
)

// Format is the number of the format that this package writes and reads.
const Format = 1

// manifestName is the first entry of the archive.
const manifestName = "manifest.json"

// Manifest says what is in a snapshot.
type Manifest struct {
	Format int `json:"format"`
	// State is what used the data last: a brink of this version goes on from it.
	State State `json:"state"`
	// MadeBy is the version of the brink that wrote the file.
	MadeBy string    `json:"madeBy"`
	Node   string    `json:"node"`
	Made   time.Time `json:"made"`
	// Before is the version before whose first start it was made, empty if somebody asked.
	Before string `json:"before,omitempty"`
	// Cluster is the hash of the cluster's CA.
	Cluster string `json:"cluster"`
	// Revision is the last one in the database.
	Revision int64 `json:"revision"`
	// Damage says what was wrong with the database, which a start would have mended.
	Damage string `json:"damage,omitempty"`
	Files  []File `json:"files"`
}

// File is an entry of the archive.
type File struct {
	Path   string `json:"path"` // relative to the data directory
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}
