package datastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"brink/internal/atomicfile"
)

// SQLite plays a WAL up to the first frame that does not fit, without a word. That is right
// for the torn tail that a power cut leaves. But where a frame in the middle, the header or
// the whole file was lost, acknowledged writes are lost with it. The two cases are told
// apart here, by https://sqlite.org/fileformat2.html#the_write_ahead_log:
//
//   - Frames of the WAL's present use have the salts of its header. Such frames after
//     one that does not fit were written after it. They may be the rest of the one
//     transaction that was being written when the power was cut, in any order; a frame
//     behind a commit is not, for that commit was synced before the frame was written.
//     Where only brink was killed, the kernel has kept all that was written: then
//     every frame behind counts.
//   - A WAL that is not there, or is empty, although the database was in use: the mark
//     is made after the first write to it, and it shrinks only at a clean end.
//
// A last frame that is damaged cannot be told from one that was torn, and passes for
// that. What was lost is a warning of the run that found it: the objects that it was
// about are not known, so nothing could end it.
const (
	walHeader   = 32
	frameHeader = 24
	walMagic    = 0x377f0682 // the last bit: checksums are of big endian words
	walVersion  = 3007000
)

// walState is what a WAL looks like.
type walState struct {
	missing, badHeader bool
	frames             int // of its present use that are whole and in order
	after              int // of its present use, behind the first that is not
	afterCommit        int // those of them behind a commit
}

// readWAL looks at a WAL without touching it.
func readWAL(path string) (w walState, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return walState{missing: true}, nil
	}
	if err != nil {
		return w, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return w, err
	}
	if info.Size() < walHeader {
		return walState{missing: true}, nil
	}
	header := make([]byte, walHeader)
	if _, err := io.ReadFull(f, header); err != nil {
		return w, err
	}
	sums := walSums{order: binary.LittleEndian}
	if header[3]&1 != 0 {
		sums.order = binary.BigEndian
	}
	sums.add(header[:24])
	pageSize := int(binary.BigEndian.Uint32(header[8:]))
	sound := binary.BigEndian.Uint32(header)&^1 == walMagic && binary.BigEndian.Uint32(header[4:]) == walVersion && sums.match(header[24:])
	if !sound || pageSize < 512 || pageSize > 64<<10 {
		return walState{badHeader: true}, nil
	}
	return w, w.readFrames(f, sums, pageSize, [8]byte(header[16:24]))
}

// readFrames goes on where the header ends.
func (w *walState) readFrames(f io.Reader, sums walSums, pageSize int, salts [8]byte) error {
	frame := make([]byte, frameHeader+pageSize)
	whole, commit := true, false
	for {
		if _, err := io.ReadFull(f, frame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		present := [8]byte(frame[8:16]) == salts
		if whole {
			sums.add(frame[:8])
			sums.add(frame[frameHeader:])
			if whole = present && sums.match(frame[16:24]); whole {
				w.frames++
				continue
			}
			// The one that does not fit may itself be a commit.
			commit = present && binary.BigEndian.Uint32(frame[4:]) != 0
			continue
		}
		if !present {
			continue
		}
		w.after++
		if commit {
			w.afterCommit++
		}
		commit = commit || binary.BigEndian.Uint32(frame[4:]) != 0
	}
}

// walSums are the two running sums of a WAL.
type walSums struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (s *walSums) add(data []byte) {
	for ; len(data) >= 8; data = data[8:] {
		s.s0 += s.order.Uint32(data) + s.s1
		s.s1 += s.order.Uint32(data[4:]) + s.s0
	}
}

// match reports whether the sums are the stored ones, which are always big endian.
func (s *walSums) match(stored []byte) bool {
	return binary.BigEndian.Uint32(stored) == s.s0 && binary.BigEndian.Uint32(stored[4:]) == s.s1
}

// lost returns what is lost of acknowledged writes, "" for nothing. killed means that only
// brink has ended, not the machine, so that the kernel has kept all that was written.
func (w walState) lost(killed bool) string {
	switch {
	case w.missing:
		return "it is gone or empty: the writes since the last checkpoint are lost"
	case w.badHeader:
		return "its header is damaged: the writes since the last checkpoint are lost"
	case killed && w.after > 0:
		return fmt.Sprintf("a frame is damaged, and %d behind it are not used: the last writes are lost", w.after)
	case w.afterCommit > 0:
		return fmt.Sprintf("a frame is damaged, and %d behind it are not used: the last writes are lost", w.after)
	}
	return ""
}

// examineWAL logs what was lost with the WAL of a database that was in use, and keeps
// what is left of it. It must come before anybody opens the database.
func (s *Store) examineWAL() {
	boot, err := os.ReadFile(s.path(inUseFile))
	if err != nil {
		return // it was closed in order
	}
	path := s.database() + "-wal"
	state, err := readWAL(path)
	if err != nil {
		s.log.Warn("the database's WAL cannot be read", "path", path, "error", err)
		return
	}
	what := state.lost(len(boot) > 0 && string(boot) == bootID())
	if what == "" || (state.missing && s.wasSettled()) {
		return
	}
	line := fmt.Sprintf("WAL %s was damaged when brink ended: %s", path, what)
	if !state.missing {
		line += s.keepWAL(path)
	}
	if known, found := s.ceiling.load(); found {
		line += fmt.Sprintf("; no revision above %d was handed out", known)
	}
	s.log.Warn(line)
	s.notes.add(line)
}

// wasSettled reports whether the last run had ended but for removing its mark.
func (s *Store) wasSettled() bool {
	last, found := s.ceiling.load()
	head, err := lastIn(s.database())
	return found && err == nil && last == head
}

// keepWAL copies it: SQLite needs it, and writes over it.
func (s *Store) keepWAL(path string) string {
	aside := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
	from, err := os.Open(path)
	if err == nil {
		defer from.Close()
		err = atomicfile.WriteWith(aside, 0o600, func(w io.Writer) error {
			_, err := io.Copy(w, from)
			return err
		})
	}
	if err != nil {
		return fmt.Sprintf("; it could not be kept (%v)", err)
	}
	return "; kept as " + aside
}

// bootID is empty where the kernel does not say it.
func bootID() string {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return string(boot)
}
