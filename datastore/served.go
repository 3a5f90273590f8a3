package datastore

// Served says whether brink serves the state itself. It does not when Endpoint
// names an etcd: then the API server is etcd's client, with the certificates
// of the configuration, and has old revisions compacted.
func (c Config) Served() bool {
	e, err := c.engine()
	return err != nil || e != engineEtcd
}
