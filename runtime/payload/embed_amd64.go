package payload

import _ "embed"

//go:embed payload_amd64.tar.zst
var archive []byte

//go:embed payload_amd64.json
var manifestJSON []byte
