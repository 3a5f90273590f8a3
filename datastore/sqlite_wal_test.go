package datastore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/testerror"
)

// killedDir is what a killed process leaves: a directory that each case copies, and the
// writes that were acknowledged.
func killedDir(t *testing.T) (dir string, acks []ack) {
	t.Helper()
	cfg := testConfig(t)
	durable := func(all []ack) []ack {
		return slices.DeleteFunc(slices.Clone(all), func(a ack) bool { return a.store != "durable" })
	}
	// Far from the checkpoint after 1000 pages: all of them are in the WAL.
	all := killChildWhen(t, cfg, "w", func(acks []ack) bool { return len(durable(acks)) >= 80 })
	return cfg.Dir, durable(all)
}

// copyOf is a configuration with a copy of dir.
func copyOf(t *testing.T, dir string) (cfg Config, wal string) {
	t.Helper()
	cfg = testConfig(t)
	copyDir(t, dir, cfg.Dir)
	return cfg, filepath.Join(cfg.Dir, databaseFile+"-wal")
}

// lostOf counts acknowledged writes that are not there.
func lostOf(t *testing.T, r *running, acks []ack) (lost int) {
	t.Helper()
	got := values(t, r.durable, "/kill/")
	for _, a := range acks {
		if got[a.key] != strings.Repeat(a.key, 20) {
			lost++
		}
	}
	return lost
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << rand.IntN(8)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// The four ways to lose what a WAL held are told and what is left of it is kept; a
// tail that a power cut tore and a WAL that is whole are not worth a word.
func TestLostWALIsTold(t *testing.T) {
	t.Parallel()
	dir, acks := killedDir(t)
	const frame = 4096 + frameHeader
	for name, c := range map[string]walCase{
		"whole":              {func(*testing.T, string) {}, "", false},
		"deleted":            {func(t *testing.T, wal string) { mustRemove(t, wal) }, "gone or empty", false},
		"emptied":            {func(t *testing.T, wal string) { truncate(t, wal, 0) }, "gone or empty", false},
		"header":             {func(t *testing.T, wal string) { flip(t, wal, 9) }, "header is damaged", true},
		"page in the middle": {func(t *testing.T, wal string) { flip(t, wal, sizeOf(t, wal)/2) }, "behind it are not used", true},
		"sector in the middle": {func(t *testing.T, wal string) {
			overwrite(t, wal, walHeader+40*frame+512, strings.Repeat("x", 512))
		}, "behind it are not used", true},
		"torn tail": {func(t *testing.T, wal string) { truncate(t, wal, sizeOf(t, wal)-frame-700) }, "", false},
		"no mark": {func(t *testing.T, wal string) {
			mustRemove(t, wal, filepath.Join(filepath.Dir(wal), inUseFile))
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, dir, acks)
		})
	}
}

// walCase is damage to the WAL of a server that was killed.
type walCase struct {
	damage func(t *testing.T, wal string)
	told   string // empty: nothing is told
	kept   bool
}

// check starts a store on a damaged copy of dir, whose server had acknowledged acks.
func (c walCase) check(t *testing.T, dir string, acks []ack) {
	cfg, wal := copyOf(t, dir)
	c.damage(t, wal)
	before, _ := os.ReadFile(wal)
	r := start(t, cfg)
	kept, _ := filepath.Glob(wal + ".damaged-*Z")
	if (len(kept) == 1) != c.kept {
		t.Errorf("kept: %v", kept)
	}
	if c.kept && contents(t, cfg.Dir)[filepath.Base(kept[0])] != fmt.Sprintf("%x", sha256.Sum256(before)) {
		t.Error("what was kept is not what was there")
	}
	if c.told == "" {
		if err := r.Warning(); err != nil {
			t.Errorf("told: %v", err)
		}
		return
	}
	testerror.OneLine(t, r.Warning(), wal, c.told, "no revision above")
	if lost := lostOf(t, r, acks); lost == 0 {
		t.Error("nothing was lost: the case is none")
	}
	r.stop()
	if r = start(t, cfg); r.Warning() != nil {
		t.Errorf("told again after a clean end: %v", r.Warning())
	}
}

// After a power cut the frames of the last transaction may be there in any order: only
// what lies behind a commit was synced before.
func TestTornTransactionIsNoLoss(t *testing.T) {
	t.Parallel()
	dir, _ := killedDir(t)
	wal := filepath.Join(dir, databaseFile+"-wal")
	data, err := os.ReadFile(wal)
	if err != nil {
		t.Fatal(err)
	}
	const frame = 4096 + frameHeader
	var commits []int // frames that end a transaction of the WAL's present use
	for i := 0; walHeader+(i+1)*frame <= len(data); i++ {
		at := walHeader + i*frame
		if string(data[at+8:at+16]) == string(data[16:24]) && binary.BigEndian.Uint32(data[at+4:]) != 0 {
			commits = append(commits, i)
		}
	}
	n := len(commits)
	if n < 4 || commits[n-1]-commits[n-2] < 3 {
		t.Fatalf("%d transactions, the last of %d frames", n, commits[n-1]-commits[n-2])
	}
	for name, c := range map[string]struct {
		damaged int // frame
		cut     bool
		killed  bool
	}{
		"first of the last": {commits[n-2] + 1, false, true},
		"one before":        {commits[n-3] + 1, true, true},
		"the commit before": {commits[n-2], true, true},
		"the last commit":   {commits[n-1], false, false},
	} {
		broken := append([]byte{}, data[:walHeader+(commits[n-1]+1)*frame]...)
		broken[walHeader+c.damaged*frame+frameHeader+99] ^= 4
		path := filepath.Join(t.TempDir(), "wal")
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		state, err := readWAL(path)
		if err != nil || state.valid != c.damaged {
			t.Errorf("%s: %d frames, %v; want %d", name, state.valid, err, c.damaged)
		}
		if told := state.lost(false) != ""; told != c.cut {
			t.Errorf("%s, power cut: told %v", name, told)
		}
		if told := state.lost(true) != ""; told != c.killed {
			t.Errorf("%s, killed: told %v", name, told)
		}
	}
}

// A hundred flipped bytes anywhere in a WAL: each start is as if nothing had happened,
// or says what was lost. None is silent about a lost write, but where it may be the
// one that was being written.
func TestFlippedBytesInWAL(t *testing.T) {
	t.Parallel()
	dir, acks := killedDir(t)
	_, wal := copyOf(t, dir)
	size := sizeOf(t, wal)
	for i := range 100 {
		at := rand.Int64N(size)
		if i < 20 {
			at = int64(i) // its header
		}
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			cfg, wal := copyOf(t, dir)
			flip(t, wal, at)
			log := new(logBuffer)
			cfg.Logger = log.logger()
			store, err := prepared(cfg)
			if err != nil {
				testerror.OneLine(t, err, "damaged")
				return
			}
			lost := 0
			there := stored(t, store)
			for _, a := range acks {
				if there[a.key] != strings.Repeat(a.key, 20) {
					lost++
				}
			}
			if lost > 1 && store.Warning() == nil {
				t.Errorf("%d acknowledged writes are lost and nothing is told", lost)
			}
		})
	}
}
