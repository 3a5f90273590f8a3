package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// memory is what processes hold: PSS, in which a page that n processes map
// counts an n-th, and the part of it that no file backs and that is therefore
// never given back under pressure. Bytes.
type memory struct{ pss, anon int64 }

// memoryOf leaves out processes that have ended meanwhile.
func memoryOf(pids []int) (sum memory, err error) {
	for _, pid := range pids {
		fields, err := readFields(pid, "smaps_rollup")
		if hasEnded(err) {
			continue
		}
		if err != nil {
			return sum, err
		}
		sum.pss += fields["Pss"] * 1024
		sum.anon += fields["Pss_Anon"] * 1024
	}
	return sum, nil
}

// usage is what processes, and children that they waited for, have consumed.
type usage struct {
	cpu     time.Duration
	written int64 // bytes that went or will go to a disk
}

// usageOf leaves out processes that have ended meanwhile: their parents have
// their share.
func usageOf(pids []int) (sum usage, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(procFile(pid, "stat"))
		if hasEnded(err) {
			continue
		}
		if err != nil {
			return sum, err
		}
		cpu, err := cpuIn(string(text))
		if err != nil {
			return sum, err
		}
		fields, err := readFields(pid, "io")
		if hasEnded(err) {
			continue
		}
		if err != nil {
			return sum, err
		}
		sum.cpu += cpu
		sum.written += fields["write_bytes"] - fields["cancelled_write_bytes"]
	}
	return sum, nil
}

// hasEnded reports whether an error of /proc means that a process is gone or not reaped.
func hasEnded(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL)
}

// tick is the unit of CPU times in /proc, the same on every Linux that Go knows.
const tick = 10 * time.Millisecond

// cpuIn adds utime, stime, cutime and cstime of /proc/PID/stat, fields 14 to 17
// in proc(5). The second field is a name in parentheses and may contain spaces.
func cpuIn(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 15 {
		return 0, fmt.Errorf("not a process's stat: %q", stat)
	}
	return ticks(fields[11:15])
}

// hostCPU is the time that all processors of the host have worked.
func hostCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat does not begin with the processors' times")
	}
	// user nice system idle iowait irq softirq steal
	return ticks(append(fields[1:4:4], fields[6:9]...))
}

func ticks(fields []string) (sum time.Duration, err error) {
	for _, field := range fields {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// readFields reads lines like "Pss:  123 kB" or "write_bytes: 123".
func readFields(pid int, name string) (map[string]int64, error) {
	text, err := os.ReadFile(procFile(pid, name))
	if err != nil {
		return nil, err
	}
	return parseFields(string(text)), nil
}

func parseFields(text string) map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		if words := strings.Fields(rest); len(words) > 0 {
			if n, err := strconv.ParseInt(words[0], 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out
}

func pidsOf(programs []*program) []int {
	var out []int
	for _, p := range programs {
		out = append(out, p.pid())
	}
	return out
}
