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

// SQLite writes a change first to a second file, the write-ahead log (WAL), as frames. A frame
// is one page of the database with a checksum, and the last frame of a transaction is marked
// as its commit. A checkpoint copies the pages into the database. After that the WAL is
// overwritten from its beginning, with other salts: random numbers that stand in its header
// and in every frame.
//
// After a crash SQLite reads the WAL up to the first frame that is not valid, and ignores the
// rest without saying so. That is right for the end of a file that was being written when the
// power was cut. It is wrong if a frame in the middle, the header or the whole file was
// lost, because writes that were acknowledged are lost with it. This file tells the two cases
// apart, by https://sqlite.org/fileformat2.html#the_write_ahead_log:
//
//   - Valid frames behind one that is not valid, with the salts of the header. They may be
//     the rest of the transaction that was being written when the power was cut, whose
//     frames reach the disk in any order. But a commit is synced before the next frame is
//     written. So a frame behind a commit means a loss. If only brink was killed, the kernel
//     has written everything, and any frame behind means a loss.
//   - A WAL that is missing or empty although the database was in use. The file that marks
//     it as in use is made after the first write to the WAL, and the WAL shrinks only at a
//     clean stop.
//
// A damaged last frame cannot be told from one that was being written, and counts as that.
// The loss is a warning until brink is restarted: nobody knows which objects it is about, so
// nothing could end it earlier.
const (
	walHeader   = 32
	frameHeader = 24
	walMagic    = 0x377f0682 // if the last bit is set, checksums are of big-endian words
	walVersion  = 3007000
)

// walState says what is in a WAL.
type walState struct {
	missing, badHeader bool
	valid              int // frames up to the first that is not valid
	behind             int // frames behind that one, with the salts of the header
	behindCommit       int // those of them behind a commit
}

// readWAL examines a WAL. It changes nothing.
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

// readFrames counts the frames, from the end of the header on.
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
				w.valid++
				continue
			}
			// The frame that is not valid may itself be a commit.
			commit = present && binary.BigEndian.Uint32(frame[4:]) != 0
			continue
		}
		if !present {
			continue
		}
		w.behind++
		if commit {
			w.behindCommit++
		}
		commit = commit || binary.BigEndian.Uint32(frame[4:]) != 0
	}
}

// walSums are the two checksums of a WAL. They run through the whole file, so that each frame
// has those of everything up to it.
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

// match reports whether the sums are the stored ones. Those are always big-endian.
func (s *walSums) match(stored []byte) bool {
	return binary.BigEndian.Uint32(stored) == s.s0 && binary.BigEndian.Uint32(stored[4:]) == s.s1
}

// lost says which acknowledged writes are lost, "" for none. killed means that brink was
// killed and the machine ran on, so that the kernel has kept everything that was written.
func (w walState) lost(killed bool) string {
	switch {
	case w.missing:
		return "it is gone or empty: the writes since the last checkpoint are lost"
	case w.badHeader:
		return "its header is damaged: the writes since the last checkpoint are lost"
	case killed && w.behind > 0:
		return fmt.Sprintf("a frame is damaged, and %d behind it are not used: the last writes are lost", w.behind)
	case w.behindCommit > 0:
		return fmt.Sprintf("a frame is damaged, and %d behind it are not used: the last writes are lost", w.behind)
	}
	return ""
}

// examineWAL logs what was lost with the WAL if the last run did not stop cleanly, and keeps
// a copy of the rest. It must come before anybody opens the database, which changes the WAL.
func (s *Store) examineWAL() {
	boot, err := os.ReadFile(s.path(inUseFile))
	if err != nil {
		return // the last run has stopped cleanly
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

// wasSettled reports whether the last run had stopped cleanly, but for removing the mark that
// the database is in use: the last revision was written down, and the database has it.
func (s *Store) wasSettled() bool {
	last, found := s.ceiling.load()
	head, err := lastIn(s.database())
	return found && err == nil && last == head
}

// keepWAL copies the WAL to a file beside it, because SQLite is going to overwrite it, and
// returns what to say of that.
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

// bootID returns the kernel's id of this boot, "" if it has none.
func bootID() string {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return string(boot)
}
