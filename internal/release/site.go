package release

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Site is where releases are published: a base URL with a directory for each version and
// one for channels.
type Site struct{ base string }

// ErrNoSite is returned where nobody said where releases are: neither the build nor the user.
var ErrNoSite = errors.New("this brink was built without a place to download from: give the URL of a mirror")

// NewSite takes a base URL, http or https. With http only a signature protects what comes.
// Empty is ErrNoSite.
func NewSite(base string) (Site, error) {
	if base == "" {
		return Site{}, ErrNoSite
	}
	u, err := url.Parse(base)
	if err != nil {
		return Site{}, errUnreadable // the parser's error has parts of the URL, and so of a password
	}
	isWeb := u.Scheme == "https" || u.Scheme == "http"
	if !isWeb || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return Site{}, fmt.Errorf("%q is no URL of a mirror, which looks like https://example.org/brink", ShownURL(base))
	}
	return Site{strings.TrimRight(u.String(), "/")}, nil
}

var errUnreadable = errors.New("the URL of the mirror cannot be read: write special characters of its user and password as %XX")

// ShownURL is a URL as people may see it: without a password, and without a query, which may
// have a token. Of what is no URL with a host only what comes after a password is shown.
func ShownURL(at string) string {
	if u, err := url.Parse(at); err == nil && u.Host != "" {
		u.RawQuery = ""
		return u.Redacted()
	}
	return at[strings.LastIndex(at, "@")+1:]
}

// File returns the URL of a file of a release. A plus is written as %2B: some servers and
// caches read it as a space.
func (s Site) File(v Version, name string) string {
	return s.base + "/" + strings.ReplaceAll(v.String(), "+", "%2B") + "/" + name
}

// channelForm is the name of a channel: a file name that leads nowhere else.
var channelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)

// Channel returns the URL of the file with the version that a channel, like "stable", is at.
func (s Site) Channel(name string) (string, error) {
	if !channelForm.MatchString(name) {
		return "", fmt.Errorf("%q is no name of a channel, which looks like stable", name)
	}
	return s.base + "/channels/" + name, nil
}
