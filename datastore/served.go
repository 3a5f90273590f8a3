package datastore

// Served says whether brink serves DurableEndpoint itself. It does not when
// Config.Endpoint names an etcd: then the API server is etcd's client, with
// the certificates of Config, and has old revisions compacted.
func (s *Store) Served() bool { return s.engine != engineEtcd }
