package images

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
