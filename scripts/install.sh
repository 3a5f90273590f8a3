#!/bin/sh
# Installs brink as a service of systemd or OpenRC, or changes what an earlier run installed:
#
#   curl -sfL URL/install.sh | sh -                          a server, with a node beside it
#   curl -sfL URL/install.sh | BRINK_URL=https://SERVER:6443 BRINK_TOKEN=... sh -     an agent
#   curl -sfL URL/install.sh | sh -s - server --tls-san=shop.example.com        with flags
#
# docs/install.md has all variables. Nothing that runs is touched before the new binary is
# complete, has the right sum, runs here, and has found by `brink check` that this machine
# can be a node with these flags. A run that was cut off is finished by the next one.
#
# All is in functions and main comes last, so that a script that is cut off does nothing.
#
# shellcheck disable=SC2119,SC2120 # functions that set their own arguments have none
set -eu

BASE_URL='@BASE_URL@'
PUBLIC_KEY='@PUBLIC_KEY@'
SSH_PUBLIC_KEY='@SSH_PUBLIC_KEY@'

# What a card must have free: the unpacked binary, and some room for a node to start.
NEED_KB=200000

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# filled tells a placeholder that scripts/release has replaced from one that is still there.
filled() {
	case $1 in '' | @*@) return 1 ;; esac
}

# quote_sh prints words as a shell reads them back.
quote_sh() {
	for word in "$@"; do
		printf " '"
		printf '%s' "$word" | sed "s/'/'\\\\''/g"
		printf "'"
	done
}

# quote_unit prints words as systemd reads them back: it expands % and $.
quote_unit() {
	for word in "$@"; do
		printf ' "'
		printf '%s' "$word" | sed -e 's/[\\"]/\\&/g' -e 's/%/%%/g' -e 's/\$/$$/g'
		printf '"'
	done
}

# quote_double prints text as it stands between double quotes, in a shell and in a file of
# variables of systemd.
quote_double() { printf '%s' "$1" | sed 's/[\\"$`]/\\&/g'; }

# 1. What is asked for.

# take_k3s takes k3s's variables where they mean the same, refuses those that would go
# wrong, and names those that mean nothing here.
take_k3s() {
	for name in $(env | sed -n -e 's/^\(K3S_[A-Z0-9_]*\)=.*/\1/p' -e 's/^\(INSTALL_K3S_[A-Z0-9_]*\)=.*/\1/p' | sort -u); do
		eval "value=\$$name"
		[ -n "$value" ] || continue
		case $name in
		K3S_CLUSTER_INIT) die "K3S_CLUSTER_INIT: brink has no embedded etcd, several servers share a database: leave it out, see docs/datastore.md" ;;
		K3S_AGENT_TOKEN) die "K3S_AGENT_TOKEN: brink has no second token for agents: leave it out and make tokens with brink token create" ;;
		INSTALL_K3S_COMMIT | INSTALL_K3S_PR) die "$name: there are no builds of single commits here: leave it out, or give INSTALL_BRINK_VERSION" ;;
		INSTALL_K3S_CHANNEL_URL | INSTALL_K3S_ARTIFACT_URL) die "$name: leave it out, the place of brink's releases is INSTALL_BRINK_MIRROR" ;;
		INSTALL_K3S_SELINUX_WARN | INSTALL_K3S_SKIP_SELINUX_RPM) say "ignoring $name: there is no such package here" ;;
		INSTALL_K3S_VERSION | INSTALL_K3S_CHANNEL | INSTALL_K3S_SKIP_DOWNLOAD | INSTALL_K3S_SKIP_START | INSTALL_K3S_SKIP_ENABLE | \
			INSTALL_K3S_FORCE_RESTART | INSTALL_K3S_BIN_DIR | INSTALL_K3S_BIN_DIR_READ_ONLY | INSTALL_K3S_SYSTEMD_DIR | INSTALL_K3S_EXEC | \
			INSTALL_K3S_NAME | INSTALL_K3S_TYPE | INSTALL_K3S_SYMLINK | INSTALL_K3S_MIRROR)
			take "$name" "INSTALL_BRINK_${name#INSTALL_K3S_}" ;;
		K3S_URL | K3S_TOKEN | K3S_TOKEN_FILE | K3S_NODE_NAME | K3S_DATA_DIR | K3S_DATASTORE_ENDPOINT | K3S_DATASTORE_CAFILE | \
			K3S_DATASTORE_CERTFILE | K3S_DATASTORE_KEYFILE)
			take "$name" "BRINK_${name#K3S_}" ;;
		K3S_CONFIG_FILE) take "$name" BRINK_CONFIG ;;
		K3S_KUBECONFIG_MODE) take "$name" BRINK_WRITE_KUBECONFIG_MODE ;;
		K3S_KUBECONFIG_OUTPUT) take "$name" BRINK_WRITE_KUBECONFIG ;;
		*) say "ignoring $name: it means nothing to brink" ;;
		esac
	done
}

take() {
	eval "has=\${$2:-} value=\$$1"
	[ -z "$has" ] || return 0
	say "taking $1 as $2"
	export "$2=$value"
}

# read_settings turns variables and arguments into MODE, NAME, ARGS and paths.
read_settings() {
	take_k3s
	for name in $(env | sed -n 's/^\(INSTALL_BRINK_[A-Z0-9_]*\)=.*/\1/p' | sort -u); do
		case ${name#INSTALL_BRINK_} in
		VERSION | CHANNEL | MIRROR | FROM | ARCH | SKIP_DOWNLOAD | SKIP_START | SKIP_ENABLE | SKIP_CHECK | FORCE_RESTART | BIN_DIR | \
			BIN_DIR_READ_ONLY | SYSTEMD_DIR | EXEC | NAME | TYPE | SYMLINK | REQUIRE_SIGNATURE | WAIT | PRINT) ;;
		*) die "$name: there is no such variable, see docs/install.md" ;;
		esac
	done
	BIN_DIR=${INSTALL_BRINK_BIN_DIR:-/usr/local/bin}
	BIN=$BIN_DIR/brink
	SYSTEMD_DIR=${INSTALL_BRINK_SYSTEMD_DIR:-/etc/systemd/system}
	case $BIN_DIR$SYSTEMD_DIR in *[!A-Za-z0-9/._-]*) die "INSTALL_BRINK_BIN_DIR and INSTALL_BRINK_SYSTEMD_DIR: only letters, digits and / . _ - can be in them" ;; esac
	case ${INSTALL_BRINK_WAIT:=600} in *[!0-9]*) die "INSTALL_BRINK_WAIT=$INSTALL_BRINK_WAIT: a number of seconds" ;; esac
	case ${INSTALL_BRINK_SYMLINK:=} in '' | skip | force) ;; *) die "INSTALL_BRINK_SYMLINK=$INSTALL_BRINK_SYMLINK: skip or force" ;; esac
}

# read_arguments takes what stands after `sh -s -`, and before it INSTALL_BRINK_EXEC, whose
# words are split at blanks. A token or a password goes into the variables, which only root
# can read: a unit and the list of processes are for everybody.
read_arguments() {
	# shellcheck disable=SC2086 # the words of INSTALL_BRINK_EXEC are words
	{ set -f && set -- ${INSTALL_BRINK_EXEC:-} "$@" && set +f; }
	MODE='' GIVEN=''
	case ${1:-} in
	server | agent)
		MODE=$1 GIVEN=true
		shift
		;;
	'' | -*) ;;
	*) die "$1: the first word is server or agent, or a flag" ;;
	esac
	[ $# = 0 ] || GIVEN=true
	ARGS=''
	while [ $# -gt 0 ]; do
		case $1 in *'
'*) die "an argument with a line break cannot be kept" ;; esac
		case $1 in
		--token | -t) hide BRINK_TOKEN "${2:-}" && shift ;;
		--token=* | -t=*) hide BRINK_TOKEN "${1#*=}" ;;
		--datastore-endpoint) hide BRINK_DATASTORE_ENDPOINT "${2:-}" && shift ;;
		--datastore-endpoint=*) hide BRINK_DATASTORE_ENDPOINT "${1#*=}" ;;
		--server | --server=* | -s | -s=*)
			: "${MODE:=agent}"
			ARGS="$ARGS$(quote_sh "$1")"
			;;
		*) ARGS="$ARGS$(quote_sh "$1")" ;;
		esac
		[ $# = 0 ] || shift
	done
	: "${MODE:=${INSTALL_BRINK_TYPE:-}}"
	case $MODE in '' | server | agent) ;; *) die "INSTALL_BRINK_TYPE=$MODE: server or agent" ;; esac
}

hide() { export "$1=$2"; }

# installed_services prints the names of the services that earlier runs wrote.
installed_services() {
	for file in "$SYSTEMD_DIR"/brink*.service /etc/init.d/brink*; do
		if grep -qs '^# arguments:' "$file"; then
			file=${file##*/}
			echo "${file%.service}"
		fi
	done
}

# mode_of prints what the service of an earlier run is: server or agent.
mode_of() {
	cat "$SYSTEMD_DIR/$1.service" "/etc/init.d/$1" 2>/dev/null | sed -n -e 's/^Description=brink \([a-z]*\),.*/\1/p' -e 's/^description="brink \([a-z]*\),.*/\1/p' | head -n 1
}

# choose_mode settles what this machine is. A rerun keeps what it was.
choose_mode() {
	[ -z "${BRINK_URL:-}" ] || : "${MODE:=agent}"
	NAME=
	if [ -n "${INSTALL_BRINK_NAME:-}" ]; then
		NAME=brink-${INSTALL_BRINK_NAME#brink-}
	elif [ "$(installed_services | wc -l)" -eq 1 ]; then
		NAME=$(installed_services)
	fi
	was=${NAME:+$(mode_of "$NAME")}
	: "${MODE:=${was:-server}}"
	[ "${was:-$MODE}" = "$MODE" ] || die "this machine is already brink's $was and would become its $MODE: run $BIN_DIR/brink-uninstall.sh first"
	if [ -z "$NAME" ]; then
		NAME=brink
		[ "$MODE" = server ] || NAME=brink-agent
	fi
	case $NAME in *[!a-z0-9-]*) die "INSTALL_BRINK_NAME=$INSTALL_BRINK_NAME: small letters, digits and dashes" ;; esac
	PODS=$NAME-pods
	[ "$NAME" != brink-agent ] || PODS=brink-pods
}

# check_join refuses what would make a node of another kind than was meant.
check_join() {
	case ${BRINK_URL:-} in '' | https://*) ;; *) die "BRINK_URL=$BRINK_URL: it begins with https://, such as https://192.0.2.1:6443" ;; esac
	case ${BRINK_TOKEN:-} in K10*) die "the token is one of k3s (K10...): make one of brink with brink token create on the server" ;; esac
	if [ "$MODE" = server ] && [ -n "${BRINK_TOKEN:-}${BRINK_TOKEN_FILE:-}${BRINK_URL:-}" ]; then
		die "a server makes its own token and joins nobody: leave out BRINK_TOKEN and BRINK_URL (K3S_TOKEN, K3S_URL), or install an agent"
	fi
}

# 2. What this machine is.

find_machine() {
	[ "$(uname -s)" = Linux ] || die "only Linux can be a node"
	SUDO=
	if [ "$(id -u)" != 0 ]; then
		have sudo || die "run this as root: there is no sudo here"
		SUDO=sudo
	fi
	find_arch "${INSTALL_BRINK_ARCH:-}"
	if [ -d /run/systemd/system ]; then
		INIT=systemd
	elif have openrc-run || [ -x /sbin/openrc-run ]; then
		INIT=openrc
	elif [ "${INSTALL_BRINK_SKIP_START:-}" = true ] && have systemctl; then
		INIT=systemd # a root that will be booted elsewhere
	else
		die "neither systemd nor OpenRC runs here: see docs/install.md for how to do without"
	fi
	if [ -e /usr/bin/brink ] && [ "$BIN" != /usr/bin/brink ] && [ ! -L /usr/bin/brink ]; then
		die "brink is installed as a package here: update it by apt, dnf or apk, or remove the package first"
	fi
}

# find_arch goes by the user space: a 32-bit Raspberry Pi OS runs a 64-bit kernel since 2023.
find_arch() {
	machine=${1:-$(uname -m)}
	case $machine in
	x86_64 | amd64) ARCH=amd64 ;;
	aarch64 | arm64)
		ARCH=arm64
		if [ -z "$1" ] && have getconf && [ "$(getconf LONG_BIT 2>/dev/null)" = 32 ]; then ARCH=arm; fi
		;;
	armv7* | armv8* | arm) ARCH=arm ;;
	armv6*) die "ARMv6 (Raspberry Pi 1, Zero and Zero W) is not supported: brink needs ARMv7 or later" ;;
	*) die "there is no brink for $machine" ;;
	esac
}

# data_dir prints the data directory by flags, variables or the configuration file.
data_dir() {
	eval "set -- $ARGS"
	while [ $# -gt 0 ]; do
		case $1 in
		--data-dir | -d) echo "${2:-}" && return ;;
		--data-dir=* | -d=*) echo "${1#*=}" && return ;;
		esac
		shift
	done
	dir=$(sed -n 's/^BRINK_DATA_DIR="\(.*\)"$/\1/p' "$TMP/env")
	: "${dir:=$(root sed -n "s/^data-dir:[[:space:]]*[\"']\{0,1\}\([^\"'#]*[^\"'# ]\).*/\1/p" /etc/brink/config.yaml 2>/dev/null || true)}"
	echo "${dir:-/var/lib/brink}"
}

# root runs a command as root, and without the lock of this run: what starts a service
# would have it for as long as that runs.
root() { ${SUDO:+$SUDO} "$@" 9>&-; }

# place writes standard input into a file with a mode, all of it or nothing.
place() {
	root rm -f "$1.new"
	if ! (umask 077 && root tee "$1.new" >/dev/null) || ! root chmod "$2" "$1.new"; then
		root rm -f "$1.new" 2>/dev/null || true
		die "cannot write $1: run this again when that is mended"
	fi
	root mv -f "$1.new" "$1"
}

# 3. The new binary, beside the old one.

fetch_small() { # URL FILE
	if have curl; then
		curl -fsSL --retry 3 --connect-timeout 20 -o "$2" "$1"
	else
		wget -q -O "$2" "$1"
	fi
}

# stream writes what is at a URL to standard output. After a broken connection curl goes on
# where it was; wget does so by itself.
stream() {
	got=0 tries=0
	if ! have curl; then
		wget -q -O - "$1"
		return
	fi
	bar=--silent
	[ ! -t 2 ] || bar=--progress-bar
	while :; do
		code=0
		{ curl -fL --show-error $bar --connect-timeout 20 --speed-limit 100 --speed-time 60 -C "$got" "$1" || echo $? >"$TMP/curl"; } |
			dd bs=65536 2>"$TMP/dd" || return 1
		[ -e "$TMP/curl" ] || return 0
		code=$(cat "$TMP/curl") && rm -f "$TMP/curl"
		more=$(sed -n 's/^\([0-9]*\) bytes.*/\1/p' "$TMP/dd")
		[ "${more:-0}" = 0 ] || tries=0
		got=$((got + ${more:-0})) tries=$((tries + 1))
		case $code in 22 | 23 | 33 | 36) return 1 ;; esac # the server says no, or cannot go on in the middle
		[ "$tries" -le 5 ] || return 1
		say "the connection broke after $((got / 1000000)) MB (curl says $code), going on there"
		sleep "$tries"
	done
}

# unpackers prints the suffixes that can be unpacked here, the smallest download first.
unpackers() {
	if have zstd; then echo zst; fi
	if have xz || have unxz; then echo xz; fi
	if have gzip || have gunzip; then echo gz; fi
}

unpack() {
	case $1 in
	zst) zstd -q -d -c ;;
	xz) if have xz; then xz -d -c; else unxz -c; fi ;;
	gz) if have gzip; then gzip -d -c; else gunzip -c; fi ;;
	'') cat ;;
	esac
}

sum_of() { root sha256sum "$1" | cut -d' ' -f1; }
wanted_sum() { awk -v f="$1" '$2 == f || $2 == "*" f { print $1; exit }' "$TMP/SHA256SUMS"; }

# find_release sets BASE, a URL or a directory without one, to where SHA256SUMS lies.
find_release() {
	BASE=${INSTALL_BRINK_FROM:-}
	here=${0%/*}
	if [ -z "$BASE" ] && [ "${0##*/}" = install.sh ] && [ -f "$here/SHA256SUMS" ] && [ -z "${INSTALL_BRINK_MIRROR:-}${INSTALL_BRINK_VERSION:-}${INSTALL_BRINK_CHANNEL:-}" ]; then
		BASE=$here
	fi
	if [ -n "$BASE" ]; then
		[ -f "$BASE/SHA256SUMS" ] || die "INSTALL_BRINK_FROM=$BASE: there is no SHA256SUMS in it, it is not an unpacked archive of brink"
		IS_LOCAL=true VERSION=''
		return
	fi
	IS_LOCAL=
	BASE=${INSTALL_BRINK_MIRROR:-}
	if [ -z "$BASE" ] && filled "$BASE_URL"; then BASE=$BASE_URL; fi
	[ -n "$BASE" ] || die "this script knows no place to download from: give INSTALL_BRINK_MIRROR=URL, or INSTALL_BRINK_FROM=DIRECTORY with an unpacked archive"
	have curl || have wget || die "needs curl or wget to download"
	BASE=${BASE%/}
	VERSION=${INSTALL_BRINK_VERSION:-}
	if [ -z "$VERSION" ]; then
		fetch_small "$BASE/channels/${INSTALL_BRINK_CHANNEL:-stable}" "$TMP/channel" || die "cannot fetch $BASE/channels/${INSTALL_BRINK_CHANNEL:-stable}"
		VERSION=$(head -n 1 "$TMP/channel")
	fi
	case $VERSION in
	*+k3s*) die "INSTALL_BRINK_VERSION=$VERSION is a version of k3s; brink's look like v1.36.3+brink.1" ;;
	v[0-9]*) ;;
	*) die "$VERSION is not a version of brink, which looks like v1.36.3+brink.1" ;;
	esac
	BASE=$BASE/$(echo "$VERSION" | sed 's/+/%2B/g')
}

# get_file fetches a small file of the release.
get_file() {
	if [ -n "$IS_LOCAL" ]; then
		[ -f "$BASE/$1" ] && cp "$BASE/$1" "$TMP/$1"
	else
		fetch_small "$BASE/$1" "$TMP/$1"
	fi
}

# fetch_sums gets SHA256SUMS and proves it, as far as there is a key and a tool.
fetch_sums() {
	get_file SHA256SUMS || die "cannot fetch $BASE/SHA256SUMS: is $VERSION a release?"
	if [ -n "$VERSION" ] && [ "$(printf '%s\n' "$VERSION" | sha256sum | cut -d' ' -f1)" != "$(wanted_sum VERSION)" ]; then
		die "$BASE/SHA256SUMS is not that of version $VERSION: nothing was installed"
	fi
	why=
	if ! filled "$PUBLIC_KEY"; then
		why="this install.sh has no key"
	elif have openssl && openssl version 2>/dev/null | grep -q '^OpenSSL [3-9]'; then
		get_file SHA256SUMS.sig || die "$BASE has no signature: nothing was installed"
		printf -- '-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n' "$PUBLIC_KEY" >"$TMP/key"
		openssl pkeyutl -verify -pubin -inkey "$TMP/key" -rawin -in "$TMP/SHA256SUMS" -sigfile "$TMP/SHA256SUMS.sig" >/dev/null 2>&1 || forged
	elif have ssh-keygen && filled "$SSH_PUBLIC_KEY"; then
		get_file SHA256SUMS.sshsig || die "$BASE has no signature: nothing was installed"
		echo "brink namespaces=\"brink\" $SSH_PUBLIC_KEY" >"$TMP/signers"
		ssh-keygen -Y verify -f "$TMP/signers" -I brink -n brink -s "$TMP/SHA256SUMS.sshsig" <"$TMP/SHA256SUMS" >/dev/null 2>&1 || forged
	else
		why="neither OpenSSL 3 nor ssh-keygen is here"
	fi
	if [ -n "$why" ]; then
		[ "${INSTALL_BRINK_REQUIRE_SIGNATURE:-}" != true ] || die "the signature cannot be checked, and INSTALL_BRINK_REQUIRE_SIGNATURE is set: $why"
		say "only sums are compared, no signature: $why"
	fi
}

forged() { die "$BASE/SHA256SUMS is not signed by brink's key: nothing was installed"; }

# get_binary brings the binary to NEW, unless the one that is installed is the same.
get_binary() {
	file=brink-linux-$ARCH
	want=$(wanted_sum "$file")
	[ -n "$want" ] || die "$BASE has no $file"
	if [ -f "$BIN" ] && [ "$(sum_of "$BIN")" = "$want" ]; then
		NEW=
		return
	fi
	suffix=
	for suffix in $(unpackers) ''; do
		name=$file${suffix:+.$suffix}
		if [ -n "$IS_LOCAL" ] && [ -f "$BASE/$name" ]; then break; fi
		if [ -z "$IS_LOCAL" ] && [ -n "$suffix" ] && [ -n "$(wanted_sum "$name")" ]; then break; fi
		name=
	done
	[ -n "$name" ] || die "$BASE has no $file that can be unpacked here: install zstd, xz or gzip"
	root rm -f "$NEW"
	free=$(df -Pk "$BIN_DIR" | awk 'NR == 2 { print $4 }')
	[ "${free:-$NEED_KB}" -ge $NEED_KB ] || die "$BIN_DIR has $((free / 1000)) MB free and needs $((NEED_KB / 1000)): make room, nothing was installed"
	say "fetching brink ${VERSION:-from $BASE} for $ARCH"
	{
		if [ -n "$IS_LOCAL" ]; then cat "$BASE/$name"; else stream "$BASE/$name"; fi || echo failed >"$TMP/failed"
	} | unpack "$suffix" 2>"$TMP/unpack" | root tee "$NEW" 2>"$TMP/tee" >/dev/null || echo failed >>"$TMP/write"
	[ ! -s "$TMP/tee" ] || die "cannot write $NEW: $(sed 's/^.*: //' "$TMP/tee" | head -n 1): nothing was installed"
	[ ! -e "$TMP/failed" ] || die "cannot fetch $BASE/$name: nothing was installed"
	got=$(sum_of "$NEW")
	[ "$got" = "$want" ] || die "$name does not have the sum that SHA256SUMS says, it is damaged or was changed: nothing was installed"
}

# bring gets and proves the new binary. NEW is empty when the installed one is to stay.
bring() {
	NEW=$BIN_DIR/.brink.new
	if [ "${INSTALL_BRINK_SKIP_DOWNLOAD:-}" = true ] || [ "${INSTALL_BRINK_SKIP_DOWNLOAD:-}" = binary ] || [ "${INSTALL_BRINK_BIN_DIR_READ_ONLY:-}" = true ]; then
		[ -f "$BIN" ] || die "there is no $BIN, and nothing is to be downloaded: lay it there first"
		[ -x "$BIN" ] || root chmod 755 "$BIN"
		NEW='' IS_LOCAL=''
		"$BIN" version >/dev/null || die "$BIN does not run here: is it for another architecture than $ARCH?"
		return
	fi
	find_release
	fetch_sums
	make_dir "$BIN_DIR"
	get_binary
	[ -n "$NEW" ] || return 0
	root chmod 755 "$NEW"
	"$NEW" version >/dev/null || die "the new brink does not run here ($BIN_DIR may be mounted noexec, or $ARCH is not this machine's architecture): nothing was installed"
}

# 4. The variables and the check.

# write_variables makes the new file of variables in TMP: what the last run kept, and what
# is given now. An empty value takes one away.
write_variables() {
	ENV_FILE=$SYSTEMD_DIR/$NAME.service.env
	[ "$INIT" = systemd ] || ENV_FILE=/etc/brink/$NAME.env
	root cat "$ENV_FILE" 2>/dev/null >"$TMP/env" || true
	for name in $(env | sed -n -e 's/^\(BRINK_[A-Z0-9_]*\)=.*/\1/p' -e 's/^\(CONTAINERD_[A-Z0-9_]*\)=.*/\1/p' -e 's/^\([A-Za-z]*_PROXY\)=.*/\1/p' -e 's/^\([a-z]*_proxy\)=.*/\1/p' | sort -u); do
		case $name in *_PROXY | *_proxy) case $name in HTTP_* | HTTPS_* | ALL_* | NO_* | http_* | https_* | all_* | no_*) ;; *) continue ;; esac ;; esac
		eval "value=\$$name"
		case $value in *'
'*) die "$name has a line break in it and cannot be kept" ;; esac
		grep -v "^$name=" "$TMP/env" >"$TMP/env.new" || true
		[ -z "$value" ] || printf '%s="%s"\n' "$name" "$(quote_double "$value")" >>"$TMP/env.new"
		mv "$TMP/env.new" "$TMP/env"
	done
}

# keep_arguments takes the flags of the last run when none are given now.
keep_arguments() {
	OLD=$SYSTEMD_DIR/$NAME.service
	[ "$INIT" = systemd ] || OLD=/etc/init.d/$NAME
	[ -z "$GIVEN" ] || return 0
	ARGS=$(sed -n 's/^# arguments://p' "$OLD" 2>/dev/null || true)
}

# check_machine lets the new binary say whether this can be a node, with the very flags and
# variables. The variables are handed over in a file: others can read arguments.
check_machine() {
	[ "${INSTALL_BRINK_SKIP_CHECK:-}" != true ] || return 0
	program=${NEW:-$BIN}
	# shellcheck disable=SC2016 # the inner shell expands them
	if ! eval "root sh -c 'set -a; . \"\$1\"; shift; exec \"\$@\"' sh '$TMP/env' '$program' check $MODE $ARGS" >"$TMP/check" 2>&1; then
		grep -v '^ok ' "$TMP/check" >&2 || true
		die "this machine cannot be a node yet, or a flag is wrong: nothing was installed (INSTALL_BRINK_SKIP_CHECK=true goes on all the same)"
	fi
	grep '^warn' "$TMP/check" >&2 || true
}

# 5. What is written. Each thing is in the list of brink-uninstall.sh before it is made.

# made adds to the list: file, link, dir or image, and a path.
made() {
	case "
$MADE" in *"
$1 $2
"*) ;; *) MADE="$MADE$1 $2
" ;; esac
}

make_dir() {
	[ ! -d "$1" ] || return 0
	make_dir "$(dirname "$1")"
	made dir "$1"
	root mkdir "$1" || die "cannot make $1"
}

# read_made takes the list of earlier runs, and whether the last one came to its end.
read_made() {
	list=$(sed -n 's/^#made //p' "$BIN_DIR/brink-uninstall.sh" 2>/dev/null || true)
	MADE=${list:+$list
}
	if grep -qs '^#pending' "$BIN_DIR/brink-uninstall.sh"; then CHANGED=true; fi
}

# list_all puts down all that this run may make.
list_all() {
	made file "$BIN"
	made file "$BIN.previous"
	made file "$BIN_DIR/.brink.new"
	made file "$BIN_DIR/brink-killall.sh"
	for link in kubectl ctr crictl; do
		if wants_link "$link"; then made link "$BIN_DIR/$link"; fi
	done
	if [ "$INIT" = systemd ]; then
		made file "$SYSTEMD_DIR/$NAME.service"
		made file "$SYSTEMD_DIR/$NAME.service.env"
		made file "$SYSTEMD_DIR/$PODS.service"
	else
		make_dir /etc/brink
		made file "/etc/init.d/$NAME"
		made file "/etc/init.d/$PODS"
		made file "/etc/brink/$NAME.env"
		made file "/var/log/$NAME.log"
		if have logrotate; then made file "/etc/logrotate.d/$NAME"; elif [ -d /etc/periodic/daily ]; then made file "/etc/periodic/daily/$NAME-log"; fi
	fi
	[ ! -d /etc/NetworkManager/conf.d ] || made file /etc/NetworkManager/conf.d/90-brink.conf
}

# wants_link tells whether a name is nobody else's.
wants_link() {
	case $INSTALL_BRINK_SYMLINK in skip) return 1 ;; force) return 0 ;; esac
	if [ -L "$BIN_DIR/$1" ]; then
		case $(readlink "$BIN_DIR/$1") in brink | "$BIN") return 0 ;; *) return 1 ;; esac
	fi
	[ ! -e "$BIN_DIR/$1" ] && ! have "$1"
}

# place_binary keeps the binary before as a second link, which costs no room.
place_binary() {
	[ -n "$NEW" ] || return 0
	root sync "$NEW" 2>/dev/null || sync
	if [ -f "$BIN" ]; then
		root rm -f "$BIN.previous.new"
		root ln "$BIN" "$BIN.previous.new"
		root mv -f "$BIN.previous.new" "$BIN.previous"
	fi
	root mv -f "$NEW" "$BIN"
	if have restorecon; then root restorecon "$BIN" 2>/dev/null || true; fi
	NEW='' CHANGED=true REPLACED=true
}

place_links() {
	for link in kubectl ctr crictl; do
		if wants_link "$link"; then root ln -sf brink "$BIN_DIR/$link"; fi
	done
}

# data_flags are those that tell other commands which node is meant.
data_flags() {
	eval "set -- $ARGS"
	while [ $# -gt 0 ]; do
		case $1 in
		--data-dir=* | -d=* | --config=* | -c=*) quote_sh "$1" ;;
		--data-dir | -d | --config | -c) quote_sh "$1" "${2:-}" ;;
		esac
		shift
	done
}

# place_scripts writes the scripts that stop and remove. They carry the list in themselves.
place_scripts() {
	[ "${INSTALL_BRINK_BIN_DIR_READ_ONLY:-}" != true ] || return 0
	PENDING=${1:+#pending: install.sh has not come to its end}
	uninstall_script | place "$BIN_DIR/brink-uninstall.sh" 755
	killall_script | place "$BIN_DIR/brink-killall.sh" 755
}

env_lines() {
	cat <<END
[ "\$(id -u)" = 0 ] || exec sudo "\$0" "\$@"
# The variables of the service, such as where its data is.
if [ -r $ENV_FILE ]; then
	set -a
	. $ENV_FILE
	set +a
fi
END
}

killall_script() {
	cat <<END
#!/bin/sh
# Written by brink's install.sh. Stops brink, ends its pods, and takes away their mounts,
# links and rules. All files stay, and the next start brings the node back.
set -eu
$(env_lines)
exec $BIN stop --pods$(data_flags) "\$@"
END
}

uninstall_script() {
	cat <<END
#!/bin/sh
# Written by brink's install.sh. Removes the node, its service and what was installed. What
# is yours stays: $BIN uninstall names it.
#
# What install.sh has made, in its order:
$(printf '%s' "$MADE" | sed 's/^/#made /')
$PENDING
set -u
$(env_lines)
if [ -x $BIN ]; then
	$BIN uninstall --yes$(data_flags) || {
		echo "brink-uninstall.sh: not all could be removed, see above; run it again" >&2
		exit 1
	}
else
	echo "brink-uninstall.sh: $BIN is gone: what a node has made stays" >&2
fi
if [ -d /run/systemd/system ]; then
	systemctl --quiet disable --now $NAME $PODS 2>/dev/null
elif command -v rc-service >/dev/null 2>&1; then
	for service in $NAME $PODS; do
		rc-service --quiet --ifexists \$service stop
		rc-update --quiet --all del \$service 2>/dev/null
	done
fi
sed -n 's/^#made //p' "\$0" | sed -n '1!G;h;\$p' | while read -r kind path; do
	case \$kind in
	file | image) [ -L "\$path" ] || rm -f "\$path" ;;
	link) [ ! -L "\$path" ] || case \$(readlink "\$path") in brink | $BIN) rm -f "\$path" ;; esac ;;
	dir) rmdir "\$path" 2>/dev/null ;;
	esac
done
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl reset-failed $NAME $PODS 2>/dev/null
fi
if [ -d /run/NetworkManager ] && command -v nmcli >/dev/null; then nmcli general reload conf; fi
rm -f "\$0"
echo "brink is gone from this machine"
END
}

# unit is the service of systemd. docs/brink.service and docs/brink-agent.service are what
# this prints: scripts/units writes them.
unit() {
	cat <<END
# As brink's install.sh writes it, anew at each run: own settings belong into
# /etc/brink/config.yaml, /etc/default/$NAME, or what systemctl edit $NAME makes.
# arguments:$ARGS
[Unit]
Description=brink $MODE, Kubernetes for the edge
# Not network-online.target: a node starts without a network too.
After=network.target time-set.target
Wants=time-set.target $PODS.service

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-$SYSTEMD_DIR/%N.service.env
ExecStart=$BIN $MODE$(eval "quote_unit $ARGS")
# Pods go on when brink stops, is updated or crashes. Without these two lines they
# end with it: their processes are in the unit's control group.
KillMode=process
Delegate=yes
# Ready is when pods can run. The first start of a slow board, or one that waits
# for a network, a server or a datastore, takes as long as it takes.
TimeoutStartSec=infinity
TimeoutStopSec=120s
# brink says that it is alive only when it has answered as it does to others.
WatchdogSec=300s
Restart=always
RestartSec=5s
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
END
}

# pods_unit ends pods when the machine goes down. Stopping or restarting brink does not: it
# is another unit, and begins to stop when brink has stopped.
pods_unit() {
	cat <<END
# As brink's install.sh writes it. Without it, a machine that goes down waits 90 s for
# pods that do not hear SIGTERM.
[Unit]
Description=ends brink's pods when the machine goes down
Before=$1

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=-/etc/default/$NAME
EnvironmentFile=-/etc/sysconfig/$NAME
EnvironmentFile=-$SYSTEMD_DIR/$NAME.service.env
ExecStop=$BIN stop --pods --timeout 10s$(eval "quote_unit $(data_flags)")
TimeoutStopSec=60s

[Install]
WantedBy=multi-user.target
END
}

openrc_script() {
	cat <<END
#!/sbin/openrc-run
# Written by brink's install.sh, which writes it anew when it is run again: own settings
# belong into /etc/brink/config.yaml or /etc/conf.d/$NAME.
# arguments:$ARGS
description="brink $MODE, Kubernetes for the edge"
supervisor=supervise-daemon
command="$BIN"
command_args="$MODE$(quote_double "$ARGS")"
output_log="/var/log/$NAME.log"
error_log="/var/log/$NAME.log"
respawn_delay=5
respawn_max=0
retry="TERM/120/KILL/5"
pidfile="/run/\${RC_SVCNAME}.pid"
# Pods are in the service's control group, and go on when brink stops.
rc_cgroup_cleanup="no"

depend() {
	want cgroups
	after firewall net
	use dns logger
}

start_pre() {
	# OpenRC reads /etc/conf.d and exports nothing of it.
	for variable in \$(set | sed -n 's/^\(BRINK_[A-Z0-9_]*\)=.*/\1/p'); do
		export "\$variable"
	done
	if [ -r $ENV_FILE ]; then
		set -a
		. $ENV_FILE
		set +a
	fi
}
END
}

# openrc_pods is stopped after brink, since it was started before.
openrc_pods() {
	cat <<END
#!/sbin/openrc-run
# Written by brink's install.sh. Ends pods when the machine goes down.
description="ends brink's pods when the machine goes down"
command="$BIN"
command_args="stop --pods --timeout 10s$(quote_double "$(data_flags)")"

depend() {
	before $NAME
}

start() {
	return 0
}

stop() {
	# A change of services by hand is no shutdown.
	yesno "\${RC_GOINGDOWN:-NO}" || [ "\$RC_RUNLEVEL" = shutdown ] || [ "\$RC_RUNLEVEL" = reboot ] || [ "\$RC_RUNLEVEL" = off ] || return 0
	if [ -r $ENV_FILE ]; then
		set -a
		. $ENV_FILE
		set +a
	fi
	eval "\$command \$command_args"
}
END
}

# place_changed writes what is in TMP/content into a file, unless it has that content, and
# says so by CHANGED. It does not read a pipe: what a shell sets behind one is lost.
place_changed() {
	if root cmp -s "$TMP/content" "$1" 2>/dev/null; then return 0; fi
	make_dir "$(dirname "$1")"
	place "$1" "$2" <"$TMP/content"
	CHANGED=true
}

place_service() {
	if [ -s "$TMP/env" ] || root test -e "$ENV_FILE"; then
		cp "$TMP/env" "$TMP/content"
		place_changed "$ENV_FILE" 600
	fi
	if [ "$INIT" = systemd ]; then
		unit >"$TMP/content"
		place_changed "$SYSTEMD_DIR/$NAME.service" 644
		pods_unit "$NAME.service" >"$TMP/content"
		place_changed "$SYSTEMD_DIR/$PODS.service" 644
		return
	fi
	openrc_script >"$TMP/content"
	place_changed "/etc/init.d/$NAME" 755
	openrc_pods >"$TMP/content"
	place_changed "/etc/init.d/$PODS" 755
	place_rotation
}

# place_rotation keeps the log of OpenRC's supervisor small.
place_rotation() {
	if have logrotate; then
		printf '/var/log/%s.log {\n\tmissingok\n\tnotifempty\n\tcopytruncate\n\tsize 5M\n\trotate 2\n\tcompress\n}\n' "$NAME" | place "/etc/logrotate.d/$NAME" 644
	elif [ -d /etc/periodic/daily ]; then
		place "/etc/periodic/daily/$NAME-log" 755 <<END
#!/bin/sh
# Written by brink's install.sh. Keeps 5 MB of the log and what was before.
[ "\$(stat -c %s /var/log/$NAME.log 2>/dev/null || echo 0)" -lt 5000000 ] || { gzip -c /var/log/$NAME.log >/var/log/$NAME.log.1.gz && : >/var/log/$NAME.log; }
END
		made file "/var/log/$NAME.log.1.gz"
	else
		say "nothing here keeps /var/log/$NAME.log small: install logrotate and run this again"
	fi
}

# leave_links_alone keeps NetworkManager from asking for addresses on brink's links.
leave_links_alone() {
	[ -d /etc/NetworkManager/conf.d ] || return 0
	printf '# Written by brink'"'"'s install.sh.\n[keyfile]\nunmanaged-devices+=interface-name:brink*;interface-name:veth*\n' >"$TMP/nm"
	root cmp -s "$TMP/nm" /etc/NetworkManager/conf.d/90-brink.conf && return 0
	place /etc/NetworkManager/conf.d/90-brink.conf 644 <"$TMP/nm"
	if [ -d /run/NetworkManager ] && have nmcli; then root nmcli general reload conf || true; fi
}

# list_images puts down where the archives of an unpacked tarball go, place_images lays
# them there. A second link costs no room; a copy appears when it is whole.
list_images() { each_image made_image; }
place_images() { each_image place_image; }

each_image() {
	[ -n "${IS_LOCAL:-}" ] && [ -d "$BASE/images" ] || return 0
	for archive in "$BASE"/images/*; do
		case $archive in *.tar | *.tar.* | *.tgz | *.tzst | *.txz | *.oci | *.bundle | *.txt) "$1" "$archive" "$DATA/agent/images/${archive##*/}" ;; esac
	done
}

made_image() {
	make_dir_later "$DATA/agent/images"
	made image "$2"
}

make_dir_later() {
	[ -d "$1" ] || { make_dir_later "$(dirname "$1")" && made dir "$1"; }
}

place_image() {
	root cmp -s "$1" "$2" 2>/dev/null && return 0
	root mkdir -p "$DATA/agent/images"
	say "laying ${1##*/} into $DATA/agent/images"
	root rm -f "$DATA/agent/images/.${2##*/}.new"
	root ln "$1" "$DATA/agent/images/.${2##*/}.new" 2>/dev/null || root cp "$1" "$DATA/agent/images/.${2##*/}.new" || die "cannot copy $1 to $DATA/agent/images"
	root mv -f "$DATA/agent/images/.${2##*/}.new" "$2"
}

# 6. The service.

# remember keeps what a failed start must find again.
remember() {
	for file in "$OLD" "$ENV_FILE"; do
		root cp -p "$file" "$TMP/was-${file##*/}" 2>/dev/null || true
	done
	RAN=
	if is_running; then RAN=true; fi
}

is_running() {
	if [ "$INIT" = systemd ]; then
		case $(systemctl show -p ActiveState "$NAME" 2>/dev/null) in *=active | *=activating | *=reloading) ;; *) return 1 ;; esac
	else
		rc-service --quiet --ifexists "$NAME" status >/dev/null 2>&1
	fi
}

enable_service() {
	if [ "$INIT" = systemd ]; then
		if [ -d /run/systemd/system ]; then root systemctl daemon-reload; fi
		[ "${INSTALL_BRINK_SKIP_ENABLE:-}" = true ] || root systemctl --quiet enable "$NAME" "$PODS"
	elif [ "${INSTALL_BRINK_SKIP_ENABLE:-}" != true ]; then
		root rc-update --quiet add "$NAME" default
		root rc-update --quiet add "$PODS" default
	fi
}

# start lets the service manager wait until the node is Ready: systemctl returns then, and
# asking `brink status` again and again would cost a slow board seconds.
start() {
	if [ "${INSTALL_BRINK_SKIP_START:-}" = true ]; then
		say "$BIN is installed, and not started as INSTALL_BRINK_SKIP_START says"
		return
	fi
	verb=restart
	if [ -n "$RAN" ] && [ -z "$CHANGED" ] && [ "${INSTALL_BRINK_FORCE_RESTART:-}" != true ]; then
		say "nothing has changed, and $NAME runs"
		verb=start
	else
		say "starting $NAME, and waiting until it is Ready"
	fi
	"start_$INIT" "$verb"
}

start_systemd() {
	root systemctl start --no-block "$PODS"
	code=0
	root timeout "$INSTALL_BRINK_WAIT" systemctl "$1" "$NAME" || code=$?
	if [ "$code" = 0 ]; then
		show
	elif [ "$code" = 124 ] || [ "$code" = 143 ]; then
		say "$NAME is not Ready after $INSTALL_BRINK_WAIT s and goes on: $(systemctl show -p StatusText "$NAME" | cut -d= -f2-); see systemctl status $NAME"
	else
		root journalctl -u "$NAME" -n 5 --no-pager -o cat >&2 2>/dev/null || true
		failed_start
	fi
}

start_openrc() {
	root rc-service --quiet "$PODS" start
	[ "$1" = start ] || root rc-service --quiet "$NAME" restart || failed_start
	waited=0
	until root "$BIN" status >/dev/null 2>&1; do
		if ! root rc-service --quiet "$NAME" status >/dev/null 2>&1; then failed_start; fi
		if [ "$waited" -ge "$INSTALL_BRINK_WAIT" ]; then
			say "$NAME is not Ready after $INSTALL_BRINK_WAIT s and goes on; see brink status and /var/log/$NAME.log"
			return 0
		fi
		waited=$((waited + 3))
		sleep 3
	done
	show
}

# failed_start brings back what ran before.
failed_start() {
	if [ -z "$RAN" ]; then die "$NAME does not start, see above: mend that and run this again, or take it away by $BIN_DIR/brink-uninstall.sh"; fi
	say "$NAME does not start with what is new, going back to what ran before"
	if [ -n "$REPLACED" ] && [ -f "$BIN.previous" ]; then
		root ln -f "$BIN.previous" "$BIN.back" && root mv -f "$BIN.back" "$BIN"
	fi
	for file in "$OLD" "$ENV_FILE"; do
		if root test -e "$TMP/was-${file##*/}"; then root cp -p "$TMP/was-${file##*/}" "$file"; fi
	done
	if [ "$INIT" = systemd ]; then
		root systemctl daemon-reload
		root systemctl restart --no-block "$NAME"
	else
		root rc-service --quiet "$NAME" restart || true
	fi
	die "$NAME runs as before; what is new was not taken"
}

show() {
	root "$BIN" status 2>/dev/null | head -n 1 >&2 || true
	if [ "$MODE" = server ]; then
		root env KUBECACHEDIR="$TMP/kube" "$BIN" kubectl get nodes >&2 2>/dev/null || true
		say "brink is installed: brink kubectl get pods -A; brink-uninstall.sh takes it away"
	else
		say "brink is installed, and this node has joined ${BRINK_URL:-the cluster}; brink-uninstall.sh takes it away"
	fi
}

# print writes a unit to standard output, for packages and docs/.
print() {
	MODE=server NAME=brink PODS=brink-pods ARGS='' ENV_FILE=
	[ "${1#brink-agent}" = "$1" ] || MODE=agent NAME=brink-agent
	case $1 in
	brink.service | brink-agent.service) unit ;;
	brink-pods.service) pods_unit "brink.service brink-agent.service" ;;
	brink.openrc | brink-agent.openrc) openrc_script ;;
	*) die "INSTALL_BRINK_PRINT=$1: brink.service, brink-agent.service, brink-pods.service, brink.openrc or brink-agent.openrc" ;;
	esac
}

# one_at_a_time refuses a second run beside this one. The lock goes with the process.
one_at_a_time() {
	have flock && [ -w /run ] || return 0
	exec 9>/run/brink-install.lock
	flock -n 9 || die "another install.sh runs on this machine"
}

clean_up() {
	code=$?
	trap '' HUP INT TERM
	[ -z "${NEW:-}" ] || root rm -f "$NEW"
	rm -rf "$TMP"
	[ ! -w /run ] || rm -f /run/brink-install.lock
	[ "$code" = 0 ] || [ -z "${WAS_CUT:-}" ] || say "stopped: run it again to finish"
	exit "$code"
}

main() {
	PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin
	umask 022
	read_settings
	if [ -n "${INSTALL_BRINK_PRINT:-}" ]; then
		print "$INSTALL_BRINK_PRINT"
		return
	fi
	read_arguments "$@"
	choose_mode
	check_join
	find_machine
	one_at_a_time
	TMP=$(umask 077 && mktemp -d) || die "cannot make a temporary directory"
	trap clean_up EXIT
	trap 'WAS_CUT=true; exit 130' HUP INT TERM
	MADE='' CHANGED='' REPLACED='' NEW=''
	read_made
	keep_arguments
	write_variables
	DATA=$(data_dir)
	bring
	check_machine
	remember
	list_all
	list_images
	place_scripts pending
	place_binary
	place_links
	place_images
	leave_links_alone
	place_service
	sync
	enable_service
	start
	place_scripts
}

main "$@"
