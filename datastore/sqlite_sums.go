package datastore

import (
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/k3s-io/kine/pkg/query"
)

// Each row has a checksum of its content in an additional last column. SQLite has no
// checksums: a bit that flipped on a worn card is read as content.
//
// A column adds a few bytes to a page that is written anyway. A table of checksums would add
// a page to each write, 4 KiB to the WAL and again to the file. An older brink ignores the
// column, because kine's queries name the columns that they want. Rows that an older brink
// has written have no checksum, and get one at the next start. SQLite's own solution, the
// checksum VFS, changes the format of every page, so that an older brink could not read the
// file any more.
const sumColumn = `ALTER TABLE kine ADD COLUMN sum INTEGER`

// insertSum is kine's insert with one more argument, the checksum. The connection computes
// it (see withSum), which costs no call from SQLite back to Go.
var insertSum = query.New(`
	INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value, sum)
	SELECT ?, ?, ?, ?, ?, ?, ?, (SELECT value FROM kine WHERE id = ?) AS old_value, ?`, "?", false, "InsertLastInsertID")

// withSum adds the checksum to the arguments of insertSum.
func withSum(args []driver.NamedValue) []driver.NamedValue {
	var r storedRow
	r.name, _ = args[0].Value.(string)
	for i, field := range []*int64{&r.created, &r.deleted, &r.createRevision, &r.prevRevision, &r.lease} {
		*field, _ = args[1+i].Value.(int64)
	}
	r.value, _ = args[6].Value.([]byte)
	return append(args[:len(args):len(args)], driver.NamedValue{Ordinal: len(args) + 1, Value: r.storedSum()})
}

// checksum returns the CRC-32C of the row without its id, which SQLite chooses during the
// insert. SQLite stores it in four bytes, because it is signed. An unsigned one would take
// six.
func (r *storedRow) checksum() int64 {
	var fixed [5 * 8]byte
	for i, field := range []int64{r.created, r.deleted, r.createRevision, r.prevRevision, r.lease} {
		binary.LittleEndian.PutUint64(fixed[8*i:], uint64(field))
	}
	sum := crc32.Update(0, castagnoli, []byte(r.name))
	sum = crc32.Update(sum, castagnoli, fixed[:])
	return int64(int32(crc32.Update(sum, castagnoli, r.value)))
}

// storedSum returns the checksum to store, nil for kine's own rows: kine changes these in
// place.
func (r *storedRow) storedSum() driver.Value {
	if r.isHousekeeping() {
		return nil
	}
	return r.checksum()
}

// isHousekeeping reports whether a row is no object's but kine's own: the revision up to
// which old rows were removed, or the mark of a revision that was never used.
func (r *storedRow) isHousekeeping() bool {
	return strings.HasPrefix(r.name, "compact_rev_key") || strings.HasPrefix(r.name, "gap-")
}

// isDeletion reports whether a row marks the deletion of its object. If the row is damaged,
// the checksum may prove what it was. Without that proof, a set flag or a missing value is
// enough to say yes: an object that comes back by mistake may grant rights that were
// withdrawn.
func (r *storedRow) isDeletion() bool {
	if r.sumFits(1, nil) {
		return true
	}
	return !r.sumFits(0, r.value) && (r.deleted != 0 || len(r.value) == 0)
}

// sumFits reports whether the checksum is right if the flag and the value are these.
func (r *storedRow) sumFits(deleted int64, value []byte) bool {
	other := *r
	other.deleted, other.value = deleted, value
	return r.sum.Valid && r.sum.Int64 == other.checksum()
}

// isSound reports whether the row matches its checksum. A row that has none is sound if it
// is plausible.
func (r *storedRow) isSound() bool {
	switch {
	case !r.typed:
		return false
	case r.isHousekeeping():
		return true
	case r.sum.Valid:
		return r.sum.Int64 == r.checksum()
	}
	return r.isPlausible()
}

// isPlausible reports whether brink or the API server can have written the row.
func (r *storedRow) isPlausible() bool {
	if !strings.HasPrefix(r.name, "/") || !isPrintable(r.name) || r.created|r.deleted|1 != 1 {
		return false
	}
	if r.deleted != 0 || !strings.HasPrefix(r.name, "/registry/") {
		return true
	}
	switch {
	case bytes.HasPrefix(r.value, []byte("k8s:enc:")): // encrypted by the API server
		return true
	case bytes.HasPrefix(r.value, []byte("k8s\x00")):
		return isMessage(r.value[4:])
	case bytes.HasPrefix(r.value, []byte("apiVersion: ")): // YAML, by --storage-media-type
		return utf8.Valid(r.value)
	}
	return json.Valid(r.value)
}

func isPrintable(name string) bool {
	return utf8.ValidString(name) && strings.IndexFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) < 0
}

// isMessage reports whether data can be split into the fields of a protobuf message:
// https://protobuf.dev/programming-guides/encoding/. It does not look into the fields, whose
// meaning only the API server knows.
func isMessage(data []byte) bool {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 {
			return false
		}
		data = data[n:]
		switch tag & 7 {
		case 0: // varint
			_, n = binary.Uvarint(data)
		case 1: // 64 bits
			n = 8
		case 2: // length and bytes
			var length uint64
			length, n = binary.Uvarint(data)
			if n <= 0 || length > uint64(len(data)-n) {
				return false
			}
			n += int(length)
		case 5: // 32 bits
			n = 4
		default:
			return false
		}
		if n <= 0 || n > len(data) {
			return false
		}
		data = data[n:]
	}
	return true
}
