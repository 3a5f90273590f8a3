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

// A row has a checksum of its content, in a column of its own at the end. SQLite has none: a
// bit that a card has lost comes back as content. A separate table would cost each write a
// page, 4 KiB to the WAL and again to the file; a column costs none. An older brink does not
// see the column, since kine's queries name the columns that they want. Rows that an older
// one has written have no checksum and get theirs at the next check. SQLite's own checksum
// VFS changes the format of every page, which an older brink could not read.
const sumColumn = `ALTER TABLE kine ADD COLUMN sum INTEGER`

// insertSum is kine's insert with the checksum, which the connection adds to the
// arguments: computed there, it costs no call from SQLite back to Go.
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

// checksum is the CRC-32C of everything but the id, which SQLite gives, as a signed
// number: those take four bytes, unsigned ones six.
func (r *storedRow) checksum() int64 {
	var fixed [5 * 8]byte
	for i, field := range []int64{r.created, r.deleted, r.createRevision, r.prevRevision, r.lease} {
		binary.LittleEndian.PutUint64(fixed[8*i:], uint64(field))
	}
	sum := crc32.Update(0, castagnoli, []byte(r.name))
	sum = crc32.Update(sum, castagnoli, fixed[:])
	return int64(int32(crc32.Update(sum, castagnoli, r.value)))
}

// storedSum is nil for the row whose numbers change in place.
func (r *storedRow) storedSum() driver.Value {
	if r.isHousekeeping() {
		return nil
	}
	return r.checksum()
}

// isHousekeeping reports whether a row is kine's own: the mark of the compaction or a gap.
func (r *storedRow) isHousekeeping() bool {
	return strings.HasPrefix(r.name, "compact_rev_key") || strings.HasPrefix(r.name, "gap-")
}

// isDeletion reports whether a row marks a deletion. Of a damaged row the checksum may prove
// what it was. Without such a proof a flag, or a missing value, is enough: an object that
// comes back may give rights that were withdrawn.
func (r *storedRow) isDeletion() bool {
	if r.provedWith(1, nil) {
		return true
	}
	return !r.provedWith(0, r.value) && (r.deleted != 0 || len(r.value) == 0)
}

// provedWith reports whether the checksum is that of the row with another flag and value.
func (r *storedRow) provedWith(deleted int64, value []byte) bool {
	was := *r
	was.deleted, was.value = deleted, value
	return r.sum.Valid && r.sum.Int64 == was.checksum()
}

// isSound compares with the checksum, or without one looks whether the row can be
// what somebody wrote.
func (r *storedRow) isSound() bool {
	switch {
	case !r.typed:
		return false
	case r.isHousekeeping():
		return true
	case r.sum.Valid:
		return r.sum.Int64 == r.checksum()
	}
	return r.looksSound()
}

func (r *storedRow) looksSound() bool {
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
// https://protobuf.dev/programming-guides/encoding/. What is in them is the API
// server's to know.
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
