package images

// HasCredentials tells whether a registries file, which need not exist, has
// passwords or tokens in it. A mistake in the file is told by who uses it.
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
