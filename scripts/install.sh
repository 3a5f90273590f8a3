#!/bin/sh
# Installs brink as a service of systemd or OpenRC, or changes what an earlier run installed:
#
#   curl -fsSL URL/install.sh | sh -                          a server, with a node beside it
#   curl -fsSL URL/install.sh | BRINK_URL=https://SERVER:6443 BRINK_TOKEN=... sh -     an agent
#   curl -fsSL URL/install.sh | sh -s - server --tls-san=shop.example.com        with flags
#
# docs/install.md has all variables. Nothing that runs is touched before the new binary is
# complete, has the right sum, runs here, and has found by `brink check` that this machine
# can be a node with these flags. A run that was cut off is finished by the next one.
#
# All is in functions and main comes last, so that a script that is cut off does nothing.
#
# shellcheck disable=SC2119,SC2120 # functions that set their own arguments have none
set -eu
LC_ALL=C # what dd and df say is read
export LC_ALL

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

# set_names prints the names of the variables that a pattern is for. A line of env can be a
# part of another variable's value.
set_names() {
	for name in $(env | sed -n "s/^\\($1\\)=.*/\\1/p" | sort -u); do
		eval "[ -z \"\${$name+set}\" ] || echo $name"
	done
}

# 1. What is asked for.

# take_k3s takes k3s's variables where they mean the same, refuses those that would go
# wrong, and names those that mean nothing here.
take_k3s() {
	for name in $(set_names 'K3S_[A-Z0-9_]*') $(set_names 'INSTALL_K3S_[A-Z0-9_]*'); do
		eval "value=\$$name"
		[ -n "$value" ] || continue
		case $name in
		K3S_CLUSTER_INIT) die "K3S_CLUSTER_INIT: brink has no embedded etcd, several servers share a database: leave it out, see docs/datastore.md" ;;
		K3S_AGENT_TOKEN) die "K3S_AGENT_TOKEN: brink has no second token for agents: leave it out and make tokens with brink token create" ;;
		INSTALL_K3S_COMMIT | INSTALL_K3S_PR) die "$name: there are no builds of single commits here: leave it out, or give INSTALL_BRINK_VERSION" ;;
		INSTALL_K3S_CHANNEL_URL | INSTALL_K3S_ARTIFACT_URL) die "$name: leave it out, the place of brink's releases is INSTALL_BRINK_MIRROR" ;;
		INSTALL_K3S_TYPE) say "ignoring $name: it is a type of systemd's services, and brink's is notify" ;;
		INSTALL_K3S_SELINUX_WARN | INSTALL_K3S_SKIP_SELINUX_RPM) say "ignoring $name: there is no such package here" ;;
		INSTALL_K3S_VERSION | INSTALL_K3S_CHANNEL | INSTALL_K3S_SKIP_DOWNLOAD | INSTALL_K3S_SKIP_START | INSTALL_K3S_SKIP_ENABLE | \
			INSTALL_K3S_FORCE_RESTART | INSTALL_K3S_BIN_DIR | INSTALL_K3S_BIN_DIR_READ_ONLY | INSTALL_K3S_SYSTEMD_DIR | INSTALL_K3S_EXEC | \
			INSTALL_K3S_NAME | INSTALL_K3S_SYMLINK | INSTALL_K3S_MIRROR)
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

# take_containerd takes the proxies that k3s gives to containerd alone: brink has one
# process, which asks nobody else outside.
take_containerd() {
	for name in $(set_names 'CONTAINERD_[A-Z0-9_]*'); do
		case $name in
		CONTAINERD_HTTP_PROXY | CONTAINERD_HTTPS_PROXY | CONTAINERD_NO_PROXY) take "$name" "${name#CONTAINERD_}" ;;
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
	take_containerd
	for name in $(set_names 'INSTALL_BRINK_[A-Z0-9_]*'); do
		case ${name#INSTALL_BRINK_} in
		VERSION | CHANNEL | MIRROR | FROM | ARCH | SKIP_DOWNLOAD | SKIP_START | SKIP_ENABLE | SKIP_CHECK | FORCE_RESTART | BIN_DIR | \
			BIN_DIR_READ_ONLY | SYSTEMD_DIR | EXEC | NAME | TYPE | SYMLINK | REQUIRE_SIGNATURE | WAIT | PRINT) ;;
		*) die "$name: there is no such variable, see docs/install.md" ;;
		esac
	done
	for name in SKIP_DOWNLOAD SKIP_START SKIP_ENABLE SKIP_CHECK FORCE_RESTART BIN_DIR_READ_ONLY REQUIRE_SIGNATURE; do
		truth "INSTALL_BRINK_$name"
	done
	BIN_DIR=${INSTALL_BRINK_BIN_DIR:-/usr/local/bin}
	BIN=$BIN_DIR/brink
	SCRIPTS=$BIN_DIR
	[ -z "$INSTALL_BRINK_BIN_DIR_READ_ONLY" ] || SCRIPTS=/etc/brink
	SYSTEMD_DIR=${INSTALL_BRINK_SYSTEMD_DIR:-/etc/systemd/system}
	case $BIN_DIR$SYSTEMD_DIR in *[!A-Za-z0-9/._-]*) die "INSTALL_BRINK_BIN_DIR and INSTALL_BRINK_SYSTEMD_DIR: only letters, digits and / . _ - can be in them" ;; esac
	case $BIN_DIR,$SYSTEMD_DIR in /*,/*) ;; *) die "INSTALL_BRINK_BIN_DIR and INSTALL_BRINK_SYSTEMD_DIR: they begin with /" ;; esac
	case ${INSTALL_BRINK_NAME:-} in *[!a-z0-9-]*) die "INSTALL_BRINK_NAME=$INSTALL_BRINK_NAME: small letters, digits and dashes" ;; esac
	case ${INSTALL_BRINK_WAIT:=600} in *[!0-9]*) die "INSTALL_BRINK_WAIT=$INSTALL_BRINK_WAIT: a number of seconds" ;; esac
	case ${INSTALL_BRINK_SYMLINK:=} in '' | skip | force) ;; *) die "INSTALL_BRINK_SYMLINK=$INSTALL_BRINK_SYMLINK: skip or force" ;; esac
}

# truth makes true or nothing of a variable: what is misspelled must not mean no.
truth() {
	eval "value=\${$1:-}"
	case $1=$value in
	*=true | *=1) value=true ;;
	*=false | *=0 | *=) value='' ;;
	INSTALL_BRINK_SKIP_DOWNLOAD=binary) value=true ;;
	*) die "$1=$value: true or false" ;;
	esac
	eval "$1=\$value"
}

# read_arguments takes what stands after `sh -s -`, and before it INSTALL_BRINK_EXEC, whose
# words are split at blanks outside quotes. A token or a password goes into the variables, which only root
# can read: a unit and the list of processes are for everybody.
read_arguments() {
	words=$(words_of "${INSTALL_BRINK_EXEC:-}") || die "INSTALL_BRINK_EXEC: a quote in it is not closed"
	eval "set -- $words \"\$@\""
	MODE='' GIVEN='' ARGS=''
	case ${1:-} in
	server | agent)
		MODE=$1
		shift
		;;
	'' | -*) ;;
	*) die "$1: the first word is server or agent, or a flag" ;;
	esac
	take_words "$@"
	[ -z "$ARGS" ] || GIVEN=true
	: "${MODE:=${INSTALL_BRINK_TYPE:-}}"
	case $MODE in '' | server | agent) ;; *) die "INSTALL_BRINK_TYPE=$MODE: server or agent" ;; esac
}

# words_of splits text at blanks, and prints the words as a shell reads them back. Quotes
# keep blanks, and nothing is expanded.
words_of() {
	printf '%s\n' "$1" | awk -v q="'" '
	function flush() { if (started) printf " %s%s%s", q, word, q; word = ""; started = 0 }
	{
		for (i = 1; i <= length($0); i++) {
			c = substr($0, i, 1)
			if (within == c) within = ""
			else if (within == "" && (c == q || c == "\"")) { within = c; started = 1 }
			else if (within == "" && (c == " " || c == "\t")) flush()
			else { word = word (c == q ? q "\\" q q : c); started = 1 }
		}
		if (within == "") flush()
	}
	END { exit within != "" }'
}

# take_words makes ARGS of flags, but for those with secrets. -- alone means no flags.
take_words() {
	while [ $# -gt 0 ]; do
		case $1 in *'
'*) die "an argument with a line break cannot be kept" ;; esac
		word=$(two_dashes "$1")
		case $word in
		--) GIVEN=true ;;
		--token | -t) hide BRINK_TOKEN "${2:-}" && shift ;;
		--token=* | -t=*) hide BRINK_TOKEN "${word#*=}" ;;
		--datastore-endpoint) hide BRINK_DATASTORE_ENDPOINT "${2:-}" && shift ;;
		--datastore-endpoint=*) hide BRINK_DATASTORE_ENDPOINT "${word#*=}" ;;
		--server | --server=* | -s | -s=*)
			: "${MODE:=agent}"
			ARGS="$ARGS$(quote_sh "$word")"
			;;
		*) ARGS="$ARGS$(quote_sh "$word")" ;;
		esac
		[ $# = 0 ] || shift
	done
}

# two_dashes prints a flag of those that this script looks at with two dashes: brink takes
# one as well.
two_dashes() {
	case ${1%%=*} in
	-token | -datastore-endpoint | -server | -data-dir | -config) printf -- '-%s' "$1" ;;
	*) printf '%s' "$1" ;;
	esac
}

hide() { export "$1=$2"; }

# node_functions is what this script and those that it writes know about a node of brink
# from the service that runs it. It is read by this script itself too.
node_functions() {
	cat <<'END'
# arguments_of prints the flags of a service as a shell reads them.
arguments_of() {
	sed -n 's/^# arguments://p' "$SYSTEMD_DIR/$1.service" "/etc/init.d/$1" 2>/dev/null | head -n 1
}

# own_files prints the files of variables that are the owner's of the machine.
own_files() {
	if [ "$INIT" = systemd ]; then echo "/etc/default/$1 /etc/sysconfig/$1"; else echo "/etc/conf.d/$1"; fi
}

env_file() {
	if [ "$INIT" = systemd ]; then echo "$SYSTEMD_DIR/$1.service.env"; else echo "/etc/brink/$1.env"; fi
}

pods_of() {
	if [ "$1" = brink-agent ]; then echo brink-pods; else echo "$1-pods"; fi
}

# variables_in prints the BRINK_* variables in files as a shell reads them, without that
# a shell expands anything in them.
variables_in() {
	$SUDO sed -n '
s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}\(BRINK_[A-Z0-9_]*=\)/\2/
/^BRINK_[A-Z0-9_]*=/!d
s/[[:space:]]*$//
t value
:value
s/^\([A-Z0-9_]*\)="\(.*\)"$/\1=\2/
t double
s/^\([A-Z0-9_]*\)='"'"'\(.*\)'"'"'$/\1=\2/
b quote
:double
s/\\\(["\\$`]\)/\1/g
:quote
s/'"'"'/'"'\\\\''"'/g
s/=\(.*\)/='"'\\1'"'/
p' "$@" 2>/dev/null || true
}

# data_by prints the data directory by flags and variables, as a shell reads them, and by
# the configuration file.
data_by() (
	BRINK_DATA_DIR='' BRINK_CONFIG=''
	eval "$2"
	eval "set -- $1"
	dir='' config=$BRINK_CONFIG
	while [ $# -gt 0 ]; do
		case $1 in
		--data-dir | -d) dir=${2:-} ;;
		--data-dir=* | -d=*) dir=${1#*=} ;;
		--config | -c) config=${2:-} ;;
		--config=* | -c=*) config=${1#*=} ;;
		esac
		shift
	done
	: "${dir:=$BRINK_DATA_DIR}"
	[ -n "$dir" ] || dir=$($SUDO sed -n '
/^["'"'"']\{0,1\}data-dir["'"'"']\{0,1\}[[:space:]]*:/!d
s/^[^:]*:[[:space:]]*//
t value
:value
s/^"\([^"]*\)".*/\1/
t end
s/^'"'"'\([^'"'"']*\)'"'"'.*/\1/
t end
s/^#.*//
s/[[:space:]]\{1,\}#.*//
s/[[:space:]]*$//
:end
p' "${config:-/etc/brink/config.yaml}" 2>/dev/null | head -n 1)
	echo "${dir:-/var/lib/brink}"
)

# data_of prints the data directory of a service: by what it is started with now, and of one
# that is not there by what it was installed with.
data_of() {
	if [ -e "$SYSTEMD_DIR/$1.service" ] || [ -e "/etc/init.d/$1" ]; then
		# shellcheck disable=SC2046 # they are words
		data_by "$(arguments_of "$1")" "$(variables_in $(own_files "$1") "$(env_file "$1")")"
	else
		sed -n "s/^#made service $1 [a-z]* //p" "$LIST"
	fi
}

# listed_services prints the names of the services that install.sh has made.
listed_services() { sed -n 's/^#made service \([a-z0-9-]*\) .*/\1/p' "$LIST" 2>/dev/null || true; }

runs() {
	if [ "$INIT" = systemd ]; then systemctl --quiet is-active "$1"; else rc-service --quiet --ifexists "$1" status >/dev/null 2>&1; fi
}
END
}

# installed_services prints the names of the services that earlier runs made, or began to.
installed_services() {
	{
		listed_services
		for file in "$SYSTEMD_DIR"/brink*.service /etc/init.d/brink*; do
			if grep -qs '^# arguments:' "$file"; then
				file=${file##*/}
				echo "${file%.service}"
			fi
		done
	} | grep -x '[a-z0-9-]*' | sort -u
}

# mode_of prints what the service of an earlier run is: server or agent.
mode_of() {
	{
		cat "$SYSTEMD_DIR/$1.service" "/etc/init.d/$1" 2>/dev/null | sed -n -e 's/^Description=brink \([a-z]*\),.*/\1/p' -e 's/^description="brink \([a-z]*\),.*/\1/p'
		sed -n "s/^#made service $1 \([a-z]*\) .*/\1/p" "$LIST" 2>/dev/null || true
	} | head -n 1
}

# choose_mode settles what this machine is. A rerun keeps what it was.
choose_mode() {
	[ -z "${BRINK_URL:-}" ] || : "${MODE:=agent}"
	installed=$(installed_services || true)
	if [ -n "${INSTALL_BRINK_NAME:-}" ]; then
		NAME=brink-${INSTALL_BRINK_NAME#brink-}
	elif [ "$(echo "$installed" | wc -l)" -gt 1 ]; then
		# shellcheck disable=SC2086 # they are words
		die "there are several brinks here: say which of them by INSTALL_BRINK_NAME:" $installed
	else
		NAME=$installed
	fi
	was=${NAME:+$(mode_of "$NAME")}
	: "${MODE:=${was:-$(mode_by_files)}}"
	[ "${was:-$MODE}" = "$MODE" ] || die "this machine is already brink's $was and would become its $MODE: run $SCRIPTS/brink-uninstall.sh first"
	if [ -z "$NAME" ]; then
		NAME=brink
		[ "$MODE" = server ] || NAME=brink-agent
	fi
	PODS=$(pods_of "$NAME")
	ENV_FILE=$(env_file "$NAME")
}

# mode_by_files prints what a machine without brink is to be by what its owner has laid
# there for the service.
mode_by_files() {
	# shellcheck disable=SC2046 # they are words
	case $(variables_in $(own_files brink-agent)) in
	*BRINK_URL=* | *BRINK_SERVER=* | *BRINK_TOKEN=* | *BRINK_TOKEN_FILE=*) echo agent ;;
	*) echo server ;;
	esac
}

# check_others refuses a second brink on a data directory.
check_others() {
	for other in $(installed_services || true); do
		[ "$other" != "$NAME" ] || continue
		[ "$(data_of "$other")" != "$DATA" ] || die "the service $other, brink's $(mode_of "$other"), has its data in $DATA: run $SCRIPTS/brink-uninstall.sh first, or give $NAME another --data-dir"
	done
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
	elif [ "$INSTALL_BRINK_SKIP_START" = true ] && have systemctl; then
		INIT=systemd # a root that will be booted elsewhere
	else
		die "neither systemd nor OpenRC runs here: see docs/install.md for how to do without"
	fi
	if [ -z "$INSTALL_BRINK_SKIP_DOWNLOAD$INSTALL_BRINK_BIN_DIR_READ_ONLY" ] && is_packaged; then
		die "$BIN is of a package: update it by apt, dnf or apk, or remove the package first"
	fi
	if [ -e /usr/bin/brink ] && [ "$BIN" != /usr/bin/brink ] && [ ! -L /usr/bin/brink ]; then
		die "brink is installed as a package here: update it by apt, dnf or apk, or remove the package first"
	fi
}

# is_packaged reports whether the binary belongs to a package.
is_packaged() {
	[ -e "$BIN" ] || return 1
	if have dpkg && dpkg -S "$BIN" >/dev/null 2>&1; then return 0; fi
	if have rpm && rpm -qf "$BIN" >/dev/null 2>&1; then return 0; fi
	have apk && apk info -q -W "$BIN" >/dev/null 2>&1
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

# root runs a command as root.
root() { ${SUDO:+$SUDO} "$@"; }

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
# where it was, if dd says how much there was; some wgets do so by themselves. They get no -T: Debian's
# static busybox dies of it.
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
		[ -n "$more" ] || return 1
		[ "$more" = 0 ] || tries=0
		got=$((got + more)) tries=$((tries + 1))
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
	here=.
	case $0 in */*) here=${0%/*} ;; esac
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
		[ "$INSTALL_BRINK_REQUIRE_SIGNATURE" != true ] || die "the signature cannot be checked, and INSTALL_BRINK_REQUIRE_SIGNATURE is set: $why"
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
	if [ "$INSTALL_BRINK_SKIP_DOWNLOAD" = true ] || [ "$INSTALL_BRINK_BIN_DIR_READ_ONLY" = true ]; then
		[ -f "$BIN" ] || die "there is no $BIN, and nothing is to be downloaded: lay it there first"
		[ -x "$BIN" ] || [ -n "$INSTALL_BRINK_BIN_DIR_READ_ONLY" ] || root chmod 755 "$BIN"
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
	root cat "$ENV_FILE" 2>/dev/null >"$TMP/env" || true
	for name in $(set_names 'BRINK_[A-Z0-9_]*') $(set_names '[A-Z]*_PROXY') $(set_names '[a-z]*_proxy'); do
		case $name in *_PROXY | *_proxy) case $name in HTTP_* | HTTPS_* | ALL_* | NO_* | http_* | https_* | all_* | no_*) ;; *) continue ;; esac ;; esac
		eval "value=\$$name"
		case $value in *'
'*) die "$name has a line break in it and cannot be kept" ;; esac
		grep -v "^$name=" "$TMP/env" >"$TMP/env.new" || true
		[ -z "$value" ] || printf '%s="%s"\n' "$name" "$(quote_double "$value")" >>"$TMP/env.new"
		mv "$TMP/env.new" "$TMP/env"
	done
	# shellcheck disable=SC2046 # they are words
	variables_in $(own_files "$NAME") >"$TMP/all"
	cat "$TMP/env" >>"$TMP/all"
	# shellcheck disable=SC2046 # they are words
	DATA=$(data_by "$ARGS" "$(variables_in $(own_files "$NAME") "$TMP/env")")
}

# keep_arguments takes the flags of the last run when none are given now.
keep_arguments() {
	OLD=$SYSTEMD_DIR/$NAME.service
	[ "$INIT" = systemd ] || OLD=/etc/init.d/$NAME
	[ -z "$GIVEN" ] || return 0
	ARGS=$(arguments_of "$NAME" || true)
}

# check_machine lets the new binary say whether this can be a node, with the very flags and
# variables. The variables are handed over in a file: others can read arguments.
check_machine() {
	[ "$INSTALL_BRINK_SKIP_CHECK" != true ] || return 0
	program=${NEW:-$BIN}
	# shellcheck disable=SC2016 # the inner shell expands them
	if ! eval "root sh -c 'set -a; . \"\$1\"; shift; exec \"\$@\"' sh '$TMP/all' '$program' check $MODE $ARGS" >"$TMP/check" 2>&1; then
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
	LIST=$SCRIPTS/brink-uninstall.sh
	list=$(sed -n 's/^#made //p' "$LIST" 2>/dev/null || true)
	MADE=${list:+$list
}
	if grep -qs '^#pending' "$LIST"; then CHANGED=true; fi
}

# made_service keeps one line for each service: its name, what it is, and its data.
made_service() {
	MADE=$(printf '%s' "$MADE" | grep -v "^service $NAME " || true)
	MADE=${MADE:+$MADE
}
	made service "$NAME $MODE $1"
}

# list_all puts down all that this run may make.
list_all() {
	made_service "$DATA"
	make_dir_later "$SCRIPTS"
	made file "$SCRIPTS/brink-killall.sh"
	if [ -z "$INSTALL_BRINK_BIN_DIR_READ_ONLY" ]; then
		made file "$BIN"
		made file "$BIN.previous"
		made file "$BIN_DIR/.brink.new"
		for link in kubectl ctr crictl; do
			if wants_link "$link"; then made link "$BIN_DIR/$link"; fi
		done
	fi
	if [ "$INIT" = systemd ]; then
		made file "$SYSTEMD_DIR/$NAME.service"
		made file "$SYSTEMD_DIR/$NAME.service.env"
		made file "$SYSTEMD_DIR/$PODS.service"
	else
		make_dir_later /etc/brink
		made file "/etc/init.d/$NAME"
		made file "/etc/init.d/$PODS"
		made file "/etc/brink/$NAME.env"
		made file "/var/log/$NAME.log"
		made file "/var/log/$NAME.log.1.gz" # by place_rotation
		made file "/var/log/$NAME.log.2.gz"
		if have logrotate; then made file "/etc/logrotate.d/$NAME"; elif [ -d /etc/periodic/daily ]; then made file "/etc/periodic/daily/$NAME-log"; fi
	fi
	[ ! -d /etc/NetworkManager/conf.d ] || made file /etc/NetworkManager/conf.d/90-brink.conf
}

# wants_link tells whether a name is nobody else's.
wants_link() {
	[ -z "$INSTALL_BRINK_BIN_DIR_READ_ONLY" ] || return 1
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
	PENDING=${1:+#pending: install.sh has not come to its end}
	root mkdir -p "$SCRIPTS"
	uninstall_script | place "$SCRIPTS/brink-uninstall.sh" 755
	killall_script | place "$SCRIPTS/brink-killall.sh" 755
}

script_head() {
	cat <<END
[ "\$(id -u)" = 0 ] || exec sudo "\$0" "\$@"
BIN=$BIN INIT=$INIT SYSTEMD_DIR=$SYSTEMD_DIR LIST=$SCRIPTS/brink-uninstall.sh SUDO=

$(node_functions)

END
}

killall_script() {
	cat <<END
#!/bin/sh
# Written by brink's install.sh. Stops brink, ends its pods, and takes away their mounts,
# links and rules. All files stay, and the next start brings the node back.
set -u
$(script_head)
failed=0
for service in \$(listed_services); do
	"\$BIN" stop --pods --data-dir "\$(data_of "\$service")" "\$@" || failed=1
done
exit \$failed
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
$(script_head)
END
	uninstall_body
}

# uninstall_body is the part of the script that knows nothing of this machine.
uninstall_body() {
	cat <<'END'
fail() {
	echo "brink-uninstall.sh: $*" >&2
	exit 1
}

# remove_node stops when it finds no node though one runs: its data is somewhere else.
remove_node() {
	dir=$(data_of "$1") did_run=
	if runs "$1"; then did_run=true; fi
	said=$("$BIN" uninstall --yes --data-dir "${dir:-/var/lib/brink}" 2>&1)
	code=$?
	printf '%s\n' "$said"
	[ $code = 0 ] || fail "not all could be removed, see above; run it again"
	case $did_run$said in
	true"nothing of brink is here"*) fail "$1 runs and has no data in $dir: nothing was removed; run $BIN uninstall --data-dir DIRECTORY with the right one, then this again" ;;
	esac
}

disable() {
	if [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now "$1" "$(pods_of "$1")" 2>/dev/null
	elif command -v rc-service >/dev/null 2>&1; then
		for each in "$1" "$(pods_of "$1")"; do
			rc-service --quiet --ifexists "$each" stop
			rc-update --quiet --all del "$each" 2>/dev/null
		done
	fi
}

made() { sed -n 's/^#made //p' "$LIST" | sed -n '1!G;h;$p'; }

remove_files() {
	made | while read -r kind path; do
		case $kind in
		file) [ -L "$path" ] || rm -f "$path" "$path.new" ;;
		image) [ -L "$path" ] || rm -f "$path" "${path%/*}/.${path##*/}.new" ;;
		link) [ ! -L "$path" ] || case $(readlink "$path") in brink | "$BIN") rm -f "$path" ;; esac ;;
		esac
	done
}

services=$(listed_services)
for service in $services; do
	if [ -x "$BIN" ]; then
		remove_node "$service"
	else
		echo "brink-uninstall.sh: $BIN is gone: what a node has made stays" >&2
	fi
done
for service in $services; do disable "$service"; done
remove_files
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	for service in $services; do systemctl reset-failed "$service" "$(pods_of "$service")" 2>/dev/null; done
fi
if [ -d /run/NetworkManager ] && command -v nmcli >/dev/null; then nmcli general reload conf; fi
directories=$(made | sed -n 's/^dir //p')
rm -f "$LIST" "$LIST.new"
printf '%s\n' "$directories" | while read -r path; do
	[ -z "$path" ] || rmdir "$path" 2>/dev/null
done
echo "brink is gone from this machine"
END
}

# unit is the service of systemd. docs/brink.service and docs/brink-agent.service are what
# INSTALL_BRINK_PRINT prints by this: docs/units_test.go compares.
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

# openrc_pods is stopped after the services in its arguments, since it was started before.
openrc_pods() {
	cat <<END
#!/sbin/openrc-run
# Written by brink's install.sh. Ends pods when the machine goes down.
description="ends brink's pods when the machine goes down"

depend() {
	before $*
}

start() {
	return 0
}

# end_pods reads what the service has, in a shell of its own.
end_pods() (
	for file in "/etc/conf.d/\$1" "/etc/brink/\$1.env"; do
		if [ -r "\$file" ]; then
			set -a
			. "\$file"
			set +a
		fi
	done
	$BIN stop --pods --timeout 10s$(data_flags)
)

stop() {
	# A change of services by hand is no shutdown.
	yesno "\${RC_GOINGDOWN:-NO}" || [ "\$RC_RUNLEVEL" = shutdown ] || [ "\$RC_RUNLEVEL" = reboot ] || [ "\$RC_RUNLEVEL" = off ] || return 0
	for service in $*; do end_pods "\$service" || return 1; done
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
	openrc_pods "$NAME" >"$TMP/content"
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
# them there. A second link costs no room, but what another owns stays writable for him; a
# copy appears when it is whole.
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

# make_dir_later puts down a directory that is made when the list is written.
make_dir_later() {
	[ -d "$1" ] || { make_dir_later "$(dirname "$1")" && made dir "$1"; }
}

place_image() {
	root cmp -s "$1" "$2" 2>/dev/null && return 0
	root mkdir -p "$DATA/agent/images"
	say "laying ${1##*/} into $DATA/agent/images"
	root rm -f "$DATA/agent/images/.${2##*/}.new"
	if [ "$(stat -c %u "$1")" != 0 ] || ! root ln "$1" "$DATA/agent/images/.${2##*/}.new" 2>/dev/null; then
		root cp "$1" "$DATA/agent/images/.${2##*/}.new" || die "cannot copy $1 to $DATA/agent/images"
	fi
	root mv -f "$DATA/agent/images/.${2##*/}.new" "$2"
}

# 6. The service.

# service_files are the files that a failed start brings back.
service_files() {
	if [ "$INIT" = systemd ]; then
		echo "$OLD" "$ENV_FILE" "$SYSTEMD_DIR/$PODS.service"
	else
		echo "$OLD" "$ENV_FILE" "/etc/init.d/$PODS"
	fi
}

# remember keeps what a failed start must find again.
remember() {
	for file in $(service_files); do
		root cp -p "$file" "$TMP/was-${file##*/}" 2>/dev/null || true
	done
	WAS_DATA=$(data_of "$NAME" 2>/dev/null || true)
	RAN=
	if runs "$NAME"; then RAN=true; fi
}

# bring_back makes the files of the service what they were: one that was not there goes.
bring_back() {
	for file in $(service_files); do
		if root test -e "$TMP/was-${file##*/}"; then
			root cp -p "$TMP/was-${file##*/}" "$file.new" && root mv -f "$file.new" "$file"
		else
			root rm -f "$file"
		fi
	done
	made_service "$WAS_DATA"
	place_scripts
}

enable_service() {
	if [ "$INIT" = systemd ]; then
		if [ -d /run/systemd/system ]; then root systemctl daemon-reload; fi
		[ "$INSTALL_BRINK_SKIP_ENABLE" = true ] || root systemctl --quiet enable "$NAME" "$PODS"
	elif [ "$INSTALL_BRINK_SKIP_ENABLE" != true ]; then
		root rc-update --quiet add "$NAME" default
		root rc-update --quiet add "$PODS" default
	fi
}

# is_current reports whether the node that runs is of the binary that is there: one can be
# laid there by hand. The file named lock has the number of the node's process.
is_current() {
	running=$(root stat -L -c %d:%i "/proc/$(root head -n 1 "$DATA/lock" 2>/dev/null)/exe" 2>/dev/null || true)
	[ "${running:-unknown}" = "$(stat -L -c %d:%i "$BIN")" ]
}

# start lets the service manager wait until the node is Ready: systemctl returns then, and
# asking `brink status` again and again would cost a slow board seconds.
start() {
	if [ "$INSTALL_BRINK_SKIP_START" = true ]; then
		say "$BIN is installed, and not started as INSTALL_BRINK_SKIP_START says"
		LEFT=$CHANGED # for the next run
		return
	fi
	verb=restart LEFT=
	if [ -n "$RAN" ] && [ -z "$CHANGED" ] && is_current && [ "$INSTALL_BRINK_FORCE_RESTART" != true ]; then
		say "nothing has changed, and $NAME runs"
		verb=start
	else
		say "starting $NAME, and waiting until it is Ready"
	fi
	"start_$INIT" "$verb"
}

start_systemd() {
	root systemctl start --no-block "$PODS"
	# Beside this script, which hears ^C meanwhile.
	{
		code=0
		root timeout "$INSTALL_BRINK_WAIT" systemctl "$1" "$NAME" || code=$?
		echo "$code" 2>/dev/null >"$TMP/started.new" && mv "$TMP/started.new" "$TMP/started"
	} &
	follow_start
	code=$(cat "$TMP/started" 2>/dev/null || echo 124)
	if [ "$code" = 0 ]; then
		show
	elif [ "$code" = 124 ] || [ "$code" = 143 ]; then
		say "$NAME is not Ready after $INSTALL_BRINK_WAIT s and goes on: $(systemctl show -p StatusText "$NAME" | cut -d= -f2-); see systemctl status $NAME"
	else
		root journalctl -u "$NAME" -n 5 --no-pager -o cat >&2 2>/dev/null || true
		failed_start
	fi
}

# follow_start says what is waited for, until systemctl has ended.
follow_start() {
	waited=0 said=
	until [ -s "$TMP/started" ] || [ "$waited" -gt $((INSTALL_BRINK_WAIT + 10)) ]; do
		sleep 1
		waited=$((waited + 1))
		[ $((waited % 10)) = 0 ] || continue
		text=$(systemctl show -p StatusText "$NAME" | cut -d= -f2-)
		[ -z "$text" ] || [ "$text" = "$said" ] || say "$text"
		said=$text
	done
}

# node runs a command of brink on the node of this run.
node() { root env KUBECACHEDIR="$TMP/kube" BRINK_DATA_DIR="$DATA" "$BIN" "$@"; }

start_openrc() {
	root rc-service --quiet "$PODS" start
	[ "$1" = start ] || root rc-service --quiet "$NAME" restart || failed_start
	waited=0
	until node status >/dev/null 2>&1; do
		if ! root rc-service --quiet "$NAME" status >/dev/null 2>&1; then failed_start; fi
		if [ "$waited" -ge "$INSTALL_BRINK_WAIT" ]; then
			say "$NAME is not Ready after $INSTALL_BRINK_WAIT s and goes on; see $BIN status and /var/log/$NAME.log"
			return 0
		fi
		waited=$((waited + 3))
		sleep 3
	done
	show
}

# failed_start brings back what ran before.
failed_start() {
	if [ -z "$RAN" ]; then die "$NAME does not start, see above: mend that and run this again, or take it away by $SCRIPTS/brink-uninstall.sh"; fi
	say "$NAME does not start with what is new, going back to what ran before"
	if [ -n "$REPLACED" ] && [ -f "$BIN.previous" ]; then
		root ln -f "$BIN.previous" "$BIN.new" && root mv -f "$BIN.new" "$BIN"
	fi
	bring_back
	if [ "$INIT" = systemd ]; then
		root systemctl daemon-reload
		root systemctl restart --no-block "$NAME"
	else
		root rc-service --quiet "$NAME" restart || true
	fi
	die "$NAME runs as before; what is new was not taken"
}

show() {
	node status 2>/dev/null | head -n 1 >&2 || true
	if [ "$MODE" = server ]; then
		node kubectl get nodes >&2 2>/dev/null || true
		say "brink is installed: brink kubectl get pods -A; $SCRIPTS/brink-uninstall.sh takes it away"
	else
		say "brink is installed, and this node has joined ${BRINK_URL:-the cluster}; $SCRIPTS/brink-uninstall.sh takes it away"
	fi
}

# print writes a unit to standard output, for packages and docs/.
print() {
	MODE=server NAME=brink PODS=brink-pods ARGS=''
	[ "${1#brink-agent}" = "$1" ] || MODE=agent NAME=brink-agent
	ENV_FILE=/etc/brink/$NAME.env # of the services of OpenRC
	case $1 in
	brink.service | brink-agent.service) unit ;;
	brink-pods.service) pods_unit "brink.service brink-agent.service" ;;
	brink.openrc | brink-agent.openrc) openrc_script ;;
	brink-pods.openrc) openrc_pods brink brink-agent ;;
	*) die "INSTALL_BRINK_PRINT=$1: brink.service, brink-agent.service, brink-pods.service, brink.openrc, brink-agent.openrc or brink-pods.openrc" ;;
	esac
}

# process prints a process by its number and its beginning: numbers come again.
process() { echo "$1-$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20)"; }

# one_at_a_time refuses a second run beside this one. The lock is a link that names the
# process which has it, so that one that was killed has it no more.
one_at_a_time() {
	LOCK=/run/brink-install.lock
	if root ln -sn "$(process $$)" "$LOCK" 2>/dev/null; then return 0; fi
	holder=$(readlink "$LOCK" || true)
	[ "$holder" != "$(process "${holder%-*}")" ] || die "another install.sh runs on this machine"
	root rm -f "$LOCK"
	root ln -sn "$(process $$)" "$LOCK" || die "cannot make $LOCK, or another install.sh runs on this machine"
}

# make_tmp makes a directory for what can be secret. It is in memory, and what a run that
# was killed has left there goes.
make_tmp() {
	for dir in /run/brink-install.*; do
		[ ! -d "$dir" ] || root rm -rf "$dir"
	done
	TMP=/run/brink-install.$$
	root mkdir -m 700 "$TMP" || die "cannot make $TMP"
	[ -z "$SUDO" ] || root chown "$(id -u)" "$TMP"
}

clean_up() {
	code=$?
	trap '' HUP INT TERM
	[ -z "${NEW:-}" ] || root rm -f "$NEW"
	[ -z "${TMP:-}" ] || root rm -rf "$TMP"
	root rm -f "$LOCK"
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
	find_machine
	eval "$(node_functions)"
	MADE='' CHANGED='' REPLACED='' NEW=''
	read_made
	choose_mode
	check_join
	one_at_a_time
	trap clean_up EXIT
	trap 'WAS_CUT=true; exit 130' HUP INT TERM
	make_tmp
	keep_arguments
	write_variables
	check_others
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
	place_scripts ${LEFT:+pending}
}

main "$@"
