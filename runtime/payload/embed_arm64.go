package payload

import _ "embed"

//go:embed payload_arm64.tar.zst
var archive []byte

//go:embed payload_arm64.json
var manifestJSON []byte
