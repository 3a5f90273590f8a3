package images

import (
	"encoding/base64"
	"errors"
	"strings"
)

// HasCredentials reports whether a registries file, which need not exist, has passwords
// or tokens in it. Mistakes in the file are left to ReadRegistries.
func HasCredentials(path string) bool {
	registries, err := ReadRegistries(path)
	if err != nil {
		return false
	}
	for _, config := range registries.configs {
		if config.auth != nil {
			return true
		}
	}
	return false
}

// basic returns the name and password of the key auth.
func (a *registryAuth) basic() (name, password string, err error) {
	text, err := base64.StdEncoding.DecodeString(a.auth)
	if err != nil {
		return "", "", errors.New("the key auth of a registry is not base64")
	}
	name, password, _ = strings.Cut(string(text), ":")
	return name, password, nil
}
