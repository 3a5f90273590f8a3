package payload

import _ "embed"

//go:embed payload_arm.tar.zst
var archive []byte

//go:embed payload_arm.json
var manifestJSON []byte
