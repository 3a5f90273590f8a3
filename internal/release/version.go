package release

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// Version is Kubernetes' version with brink's number behind it: v1.36.3+brink.2. To Kubernetes
// the part after the plus is build metadata, which it tells and never compares.
type Version struct {
	Major, Minor, Patch int // of Kubernetes
	Number              int // of brink, from 1, for each version of Kubernetes anew

	// Dev tells what kind of unreleased build this is, and is empty for a release. It begins
	// with "dev". A commit's time and hash follow, so later ones are greater.
	Dev string
}

var versionForm = regexp.MustCompile(
	`^v(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\+brink\.([1-9][0-9]{0,5})(?:\.(dev(?:\.[0-9A-Za-z-]+)*))?$`)

// ParseVersion reads a version. Its errors are for the user that typed s.
func ParseVersion(s string) (Version, error) {
	m := versionForm.FindStringSubmatch(s)
	if m == nil || len(s) > 100 {
		return Version{}, fmt.Errorf("%q is not a version of brink, which looks like v1.36.3+brink.1", s)
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // the form has digits, and few
	}
	return Version{Major: n[0], Minor: n[1], Patch: n[2], Number: n[3], Dev: m[5]}, nil
}

// String is the inverse of ParseVersion.
func (v Version) String() string {
	s := fmt.Sprintf("%s+brink.%d", v.Kubernetes(), v.Number)
	if v.Dev != "" {
		s += "." + v.Dev
	}
	return s
}

// Kubernetes returns the version of Kubernetes in it, as v1.36.3.
func (v Version) Kubernetes() string {
	return fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// Compare returns -1 if v is older than other, 1 if it is newer. What is not released yet
// comes before the release that it will be.
func (v Version) Compare(other Version) int {
	return cmp.Or(
		cmp.Compare(v.Major, other.Major),
		cmp.Compare(v.Minor, other.Minor),
		cmp.Compare(v.Patch, other.Patch),
		cmp.Compare(v.Number, other.Number),
		v.compareDev(other),
	)
}

func (v Version) compareDev(other Version) int {
	switch {
	case v.Dev == other.Dev:
		return 0
	case v.Dev == "":
		return 1
	case other.Dev == "":
		return -1
	}
	return cmp.Compare(v.Dev, other.Dev)
}

// MinorsAfter returns how many minor versions of Kubernetes v is ahead of other, negative if
// it is behind. Skew rules and upgrades go by it. Another major version is no distance that
// they know, and counts as more than any of them allows.
func (v Version) MinorsAfter(other Version) int {
	if v.Major != other.Major {
		return 1000 * (v.Major - other.Major)
	}
	return v.Minor - other.Minor
}
