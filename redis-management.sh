#!/usr/bin/env bash
# Starts, stops and looks after the Redis or Valkey server that larder works with. `--help` says how.
#
# There are two ways to run it, with the same settings: the services of compose.yaml if a Docker engine answers, else a
# local redis-server or valkey-server in the background. A password is never on a command line, where `ps` would show
# it: servers read it from a file of mode 600 or from standard input, clients from REDISCLI_AUTH.
# Runs on bash 3.2 (macOS), so there are no associative arrays and no ${x,,}.

# `sh redis-management.sh` on Debian runs dash, which reads this far and cannot read the rest. Keep this part POSIX.
if [ -z "${BASH_VERSION:-}" ]; then
  case $0 in
    *.sh)
      if command -v bash >/dev/null 2>&1; then exec bash "$0" "$@"; fi
      echo "$0: needs bash, which is not installed here" >&2
      ;;
    *) echo "redis-management.sh: needs bash: run ./redis-management.sh, or bash redis-management.sh" >&2 ;;
  esac
  exit 1
fi
set +o posix # `sh` is bash on macOS
set -euo pipefail
umask 077

readonly EX_FAIL=1 EX_USAGE=2 EX_STOPPED=3 EX_PASSWORD=4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly here
me=./$(basename "${BASH_SOURCE[0]}")
readonly me

usage() {
  cat <<HELP
Usage: $me [--coordination] VERB [OPTION...]

  start           start the server and wait until it answers; fine when it runs already
  stop            save and stop the server that start started
  status          url, pid, uptime, data, policy; exit code 0 running, 1 no answer, 3 stopped
  cli [ARG...]    redis-cli on the server: interactive, or one command
  flush [--yes]   delete every key, after showing how many and asking
  logs [-f]       the last 100 lines of the log; -f follows it
  info            memory, hit ratio, evictions, keys, clients, policy

  --coordination  the second server, for locks and limits: never evicts, every write on the disk before its reply, port
                  6380. Before the verb or right after it.
  --help          this text

This script is for the server; the program \`larder\` is for what is in it: \`larder ls\` lists caches, locks and limits,
\`larder doctor\` checks how the server is set up. docs/cli.md has its commands. To install it:
  cargo install --locked --path crates/larder-cli

Uses Docker Compose where an engine answers, else a local server. Exit codes: 0 done, 1 failed, 2 wrong usage,
3 the server is stopped, 4 the running server has another password than REDIS_PASSWORD.

Environment, and for the names that begin with REDIS_ also the file .env beside this script, read as Compose reads it:
  REDIS_PASSWORD                 password of both servers; empty or unset: none
  REDIS_PORT                     6379      REDIS_COORDINATION_PORT        6380
  REDIS_MAXMEMORY                256mb     REDIS_COORDINATION_MAXMEMORY   128mb
  LARDER_DATA                    folder of a local server's data, log, settings
                                 (\${XDG_STATE_HOME:-~/.local/state}/larder)
  LARDER_SERVER                  local server binary; implies LARDER_LOCAL=1
  LARDER_LOCAL                   1: a local server even where Docker runs
  LARDER_WAIT                    seconds that start and stop wait: 60. The others wait as long for an answer of the
                                 server, but no longer than 10 seconds
HELP
}

die() { # exit code, then lines
  local code=$1 line
  shift
  printf '%s: %s\n' "$me" "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "${line//$'\n'/$'\n  '}" >&2; done
  exit "$code"
}

has() { command -v "$1" >/dev/null 2>&1; }
row() { printf '%-10s %s\n' "$1" "$2"; }

# ---- the command to install a server ---------------------------------------------------------------------------------

install_line() { # server | client: the one line for this machine
  local sudo='' after=''
  [[ $(id -u) == 0 ]] || sudo='sudo '
  if has apt-get; then
    # Debian starts its own server on 6379 when the package is installed: the port that start is about to use.
    if has systemctl; then after=" && ${sudo}systemctl disable --now redis-server"; fi
    if [[ $1 == server ]]; then
      printf '%sapt-get install -y redis-server%s' "$sudo" "$after"
    else
      printf '%sapt-get install -y redis-tools' "$sudo"
    fi
  elif has brew; then printf 'brew install redis'
  elif has dnf; then printf '%sdnf install -y valkey' "$sudo"
  elif has apk; then printf '%sapk add redis' "$sudo"
  elif has pacman; then printf '%spacman -S --noconfirm valkey' "$sudo"
  elif has zypper; then printf '%szypper install -y valkey' "$sudo"
  else printf 'see https://valkey.io/download/ or https://redis.io/docs/latest/operate/oss_and_stack/install/'
  fi
}

find_server() { # sets server
  if [[ -n ${LARDER_SERVER:-} ]]; then
    server=$(command -v "$LARDER_SERVER") || die $EX_FAIL "LARDER_SERVER=$LARDER_SERVER is not an executable file"
  elif has redis-server; then server=$(command -v redis-server)
  elif has valkey-server; then server=$(command -v valkey-server)
  elif has docker && [[ -z ${LARDER_LOCAL:-} ]]; then
    die $EX_FAIL 'no server to start: docker is installed, but not both its engine and Compose answer,' \
      'and there is no redis-server or valkey-server. Start the Docker engine, or type:' "$(install_line server)"
  else
    die $EX_FAIL 'no server to start: there is no Docker engine, redis-server or valkey-server. Type:' \
      "$(install_line server)"
  fi
}

find_client() { # sets client
  if has redis-cli; then client=redis-cli
  elif has valkey-cli; then client=valkey-cli
  else die $EX_FAIL "$verb needs redis-cli or valkey-cli, and there is neither. Type:" "$(install_line client)"
  fi
}

# ---- the settings ----------------------------------------------------------------------------------------------------

settings() { # what the flags, the environment and .env ask for
  read_env_file "$here/.env"
  if [[ $coordination == yes ]]; then
    role=coordination service=redis-coordination port_name=REDIS_COORDINATION_PORT
    port=${REDIS_COORDINATION_PORT:-6380} maxmemory=${REDIS_COORDINATION_MAXMEMORY:-128mb}
    policy=noeviction fsync=always flag=' --coordination'
  else
    role=cache service=redis port_name=REDIS_PORT
    port=${REDIS_PORT:-6379} maxmemory=${REDIS_MAXMEMORY:-256mb}
    policy=allkeys-lfu fsync=everysec flag=''
  fi
  wait_seconds=${LARDER_WAIT:-60} answer_seconds=10
  if [[ ${LARDER_LOCAL:-} == 0 ]]; then LARDER_LOCAL=''; fi
  password=${REDIS_PASSWORD:-}
  if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then die $EX_USAGE "$port_name=$port is not a port"; fi
  [[ $maxmemory =~ ^[0-9]+([kKmMgG]?[bB]|[kKmMgG])?$ ]] ||
    die $EX_USAGE "maxmemory '$maxmemory' is not a size such as 256mb, 1gb or 0 (no limit)"
  [[ $wait_seconds =~ ^[1-9][0-9]*$ ]] || die $EX_USAGE "LARDER_WAIT=$wait_seconds is not a number of seconds"
  if ((wait_seconds < answer_seconds)); then answer_seconds=$wait_seconds; fi
  [[ $password != *[[:cntrl:]]* ]] || die $EX_USAGE 'REDIS_PASSWORD contains a control character'
  # Only REDIS_PASSWORD counts: a client would otherwise send these to a server that has no password.
  unset REDISCLI_AUTH VALKEYCLI_AUTH
}

choose_mode() { # compose | local; a local server that runs is the one meant, whatever Docker does
  mode=local
  folder=${LARDER_DATA:-${XDG_STATE_HOME:-${HOME:?neither LARDER_DATA nor HOME is set}/.local/state}/larder}/$role
  if [[ -d $folder ]]; then folder=$(cd "$folder" && pwd -P); fi
  config=$folder/server.conf pid_file=$folder/server.pid log_file=$folder/server.log
  if [[ -n ${LARDER_LOCAL:-}${LARDER_SERVER:-} ]] || local_pid >/dev/null; then return; fi
  # A remote engine may never answer.
  if has docker && within 20 docker info >/dev/null 2>&1 && within 20 docker compose version >/dev/null 2>&1; then mode=compose; fi
}

within() { # seconds, command...: ends the command then. Its standard input may be /dev/null.
  local seconds=$1 pid watch code=0
  shift
  if has timeout; then
    timeout "$seconds" "$@"
    return
  fi
  "$@" & pid=$! # macOS has no timeout
  (sleep "$seconds" && kill "$pid") >/dev/null 2>&1 & watch=$!
  wait "$pid" || code=$?
  kill "$watch" 2>/dev/null || true
  return "$code"
}

url() {
  if [[ -n $password ]]; then printf "redis://:\$REDIS_PASSWORD@127.0.0.1:%s" "$port"
  else printf 'redis://127.0.0.1:%s' "$port"
  fi
}

# ---- .env ------------------------------------------------------------------------------------------------------------

# Compose takes variables that the environment does not have from the file .env. A local server gets the same settings,
# so the file is read the same way: NAME=value or NAME: value, with or without `export`; plain, "with escapes and
# $NAME", or 'as it is'. A form of $ that this script does not read is refused if it decides a setting, never guessed.
read_env_file() { # file
  local text line=1 rest first name value quote known
  local pair='^([A-Za-z0-9_.-]+)[[:blank:]]*[=:](.*)$' bare='^[A-Za-z0-9_.-]+$'
  env_names=() env_values=()
  [[ -f $1 ]] || return 0
  text=$(cat "$1" && printf x) || die $EX_FAIL "cannot read $1"
  text=${text%x}
  text=${text#$'\xef\xbb\xbf'}
  while [[ -n $text ]]; do
    first=$(trimmed "${text%%$'\n'*}") rest=''
    if [[ $text == *$'\n'* ]]; then rest=${text#*$'\n'}; fi
    if [[ $first == export[[:blank:]]* ]]; then first=$(trimmed "${first#export}"); fi
    # A name alone stands for its value in the environment.
    if [[ -z $first || $first == '#'* || $first =~ $bare ]]; then
      text=$rest line=$((line + 1))
      continue
    fi
    [[ $first =~ $pair ]] || die $EX_USAGE "$1, line $line: neither NAME=value nor a comment"
    name=${BASH_REMATCH[1]} value=$(trimmed "${BASH_REMATCH[2]}") known=yes
    if [[ $value == [\"\']* ]]; then
      quote=${value:0:1}
      # The value continues to the closing quote, on this line or a later one.
      take_quoted "$quote" "${text#*"$quote"}" || die $EX_USAGE "$1, line $line: the quote is not closed"
      line=$((line + $(newlines "${text%"$quoted_rest"}")))
      text=$quoted_rest value=$quoted
      if [[ $quote == '"' ]]; then
        unescape "$value"
        expand "$unescaped" || known=no
        value=$expanded
      fi
    else
      text=$rest line=$((line + 1))
      expand "$(trimmed "${value%%' #'*}")" || known=no
      value=$expanded
    fi
    env_names+=("$name") env_values+=("$value")
    # A variable in the environment counts, even if it is empty.
    if [[ ! $name =~ ^REDIS_[A-Z0-9_]+$ ]] || is_exported "$name"; then continue; fi
    [[ $known == yes ]] || die $EX_USAGE "$1: in the value of $name there is a form of \$ that only Docker Compose reads" \
      "write \$\$ for a dollar sign, or '…' around the value"
    printf -v "$name" '%s' "$value"
  done
}

is_exported() { local shown; shown=$(declare -p "$1" 2>/dev/null) && [[ $shown =~ ^declare\ -[A-Za-z]*x ]]; }
newlines() { local breaks=${1//[!$'\n']/}; printf '%s' "${#breaks}"; }

trimmed() {
  local text=$1
  text=${text#"${text%%[![:space:]]*}"}
  printf '%s' "${text%"${text##*[![:space:]]}"}"
}

take_quoted() { # quote, text: sets quoted, up to the quote that is not escaped, and quoted_rest, what follows that
  local quote=$1 text=$2
  quoted='' quoted_rest=''
  while [[ -n $text ]]; do
    if [[ $text == "$quote"* ]]; then
      quoted_rest=${text:1}
      return 0
    fi
    case $text in
      \\"$quote"*) quoted+=$quote text=${text:2} ;;
      \\*) quoted+=${text:0:2} text=${text:2} ;;
      *) quoted+=${text:0:1} text=${text:1} ;;
    esac
  done
  return 1
}

unescape() { # sets unescaped; an escaped dollar sign is doubled, which is how expand reads it
  local text=$1 length char
  unescaped=''
  while [[ -n $text ]]; do
    length=2
    case $text in
      \\0[0-3][0-7][0-7]*) length=5 ;;
      \\0*)
        unescaped+=\\ text=${text:2}
        continue
        ;;
      \\[abfnrtv\\]*) ;;
      '\$'*)
        unescaped+='$$' text=${text:2}
        continue
        ;;
      *)
        unescaped+=${text:0:1} text=${text:1}
        continue
        ;;
    esac
    printf -v char '%b' "${text:0:length}"
    unescaped+=$char text=${text:length}
  done
}

# shellcheck disable=SC2016 # these dollar signs are what is looked for
expand() { # sets expanded; fails where a form of $ is not known here
  local text=$1 operator default
  local plain='^\$([A-Za-z_][A-Za-z0-9_]*)' braced='^\$\{([A-Za-z_][A-Za-z0-9_]*)((:?-)([^}$]*))?\}'
  expanded=''
  while [[ $text == *'$'* ]]; do
    expanded+=${text%%'$'*} text=\$${text#*'$'}
    if [[ $text == '$$'* ]]; then
      expanded+='$' text=${text:2}
    elif [[ $text =~ $plain || $text =~ $braced ]]; then
      text=${text:${#BASH_REMATCH[0]}} operator=${BASH_REMATCH[3]:-} default=${BASH_REMATCH[4]:-}
      if ! look_up "${BASH_REMATCH[1]}" || [[ $operator == ':-' && -z $found ]]; then found=$default; fi
      expanded+=$found
    elif [[ $text == '${'* ]]; then
      expanded=$1
      return 1
    else
      expanded+='$' text=${text:1}
    fi
  done
  expanded+=$text
}

look_up() { # name: sets found, from the environment or from the lines before
  local place
  found=''
  if is_exported "$1"; then
    found=${!1}
    return 0
  fi
  for ((place = ${#env_names[@]} - 1; place >= 0; place--)); do
    if [[ ${env_names[place]} == "$1" ]]; then
      found=${env_values[place]}
      return 0
    fi
  done
  return 1
}

# ---- the port --------------------------------------------------------------------------------------------------------

ask() ( # seconds: what the port answers to PING; fails when nothing listens. Needs no client.
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
  printf 'PING\r\n' >&3 || exit 0
  IFS= read -r -t "$1" line <&3 || true
  printf '%s' "${line%$'\r'}"
)

require_answer() { # pid, or nothing: a server that hangs accepts connections, as the kernel does that for it
  local answer hint
  answer=$(ask "$answer_seconds") || die $EX_FAIL "nothing listens on port $port${1:+, though process $1 runs}" "see: $me$flag logs"
  [[ -z $answer ]] || return 0
  hint="it may be busy with one long command; see: $me$flag logs"
  if [[ $mode == compose ]]; then hint="if it is paused: docker compose unpause $service"
  elif is_suspended "$1"; then hint="the process is suspended; let it go on: kill -CONT $1"
  fi
  die $EX_FAIL "the $role server${1:+ (pid $1)} hangs: port $port takes connections, but no answer within $answer_seconds seconds" "$hint"
}

is_suspended() { # pid
  if [[ -r /proc/$1/status ]]; then grep -qi '^state:[[:space:]]*t' "/proc/$1/status"
  else [[ $(ps -p "$1" -o state= 2>/dev/null) == T* ]]
  fi
}

refuse_taken_port() {
  local answer owner=''
  answer=$(ask 2) || return 0
  if has lsof; then owner=$(lsof -nP -iTCP:"$port" -sTCP:LISTEN -Fpc 2>/dev/null |
    awk '/^p/ {p = substr($0, 2)} /^c/ {print substr($0, 2) " (pid " p ")"; exit}') || true; fi
  if [[ -z $owner ]] && has ss; then owner=$(ss -ltnpH "sport = :$port" 2>/dev/null |
    sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (pid \2)/p' | head -n 1) || true; fi
  case $answer in
    +PONG* | -NOAUTH* | -LOADING* | -DENIED*) owner="${owner:-unknown process}, a Redis or Valkey server, but not that of $folder" ;;
    *) owner=${owner:-a process of another user} ;;
  esac
  die $EX_FAIL "port $port is taken: ${owner}" "stop that, or choose another port: $port_name=$((port < 65000 ? port + 1000 : port - 1000)) $me$flag start"
}

# ---- a local server --------------------------------------------------------------------------------------------------

local_pid() { # the pid of the server that start started here; fails when it does not run
  local pid cwd words
  [[ -r $pid_file ]] && pid=$(<"$pid_file") && [[ $pid =~ ^[1-9][0-9]*$ ]] || return 1
  # After a crash another process may have the number: it must be a server, with this data folder.
  if [[ -d /proc/self ]]; then
    cwd=$(readlink "/proc/$pid/cwd" 2>/dev/null) || return 1
    words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
  else
    cwd=$(lsof -a -p "$pid" -d cwd -Fn 2>/dev/null | sed -n 's/^n//p') || return 1
    words=$(ps -p "$pid" -o args= 2>/dev/null) || return 1
  fi
  [[ $cwd == "$folder" && $words == *server* ]] || return 1
  printf '%s' "$pid"
}

quoted() { local text=${1//\\/\\\\}; printf '"%s"' "${text//\"/\\\"}"; } # as redis.conf reads it

render_config() { # the settings of compose.yaml; only directives that Redis 6.0 knows too
  cat <<CONFIG
# Written by $me start at each start; changes here do not last.
bind 127.0.0.1
protected-mode yes
port $port
daemonize yes
pidfile $(quoted "$pid_file")
logfile $(quoted "$log_file")
dir $(quoted "$folder")
appendonly yes
appendfsync $fsync
save ""
maxmemory $maxmemory
maxmemory-policy $policy
requirepass $(quoted "$password")
CONFIG
}

setting() { sed -n "s/^$1 //p" "$config" 2>/dev/null || true; } # of the running server's configuration

follow_local_port() { # the verbs other than start go where the server listens
  local asked=${!port_name:-} listens
  listens=$(setting port)
  if [[ -n $asked && $asked != "$listens" ]]; then
    die $EX_FAIL "the server of $folder listens on port $listens, but $port_name=$asked" \
      "unset $port_name, or name the folder of the other server with LARDER_DATA"
  fi
  port=$listens
}

check_local_password() { # by the settings it was started with, so that start needs no client
  [[ $(setting requirepass) == "$(quoted "$password")" ]] || refuse_password ''
}

refuse_password() { # the server's words, where it was asked
  local what='REDIS_PASSWORD is not the password of the running server'
  if [[ -z $password ]]; then what='the running server has a password, but REDIS_PASSWORD is not set'
  elif [[ $1 == *'without any password'* ]] || [[ $mode == local && $(setting requirepass) == '""' ]]; then what='REDIS_PASSWORD is set, but the running server has no password'
  fi
  die $EX_PASSWORD "$what" "set REDIS_PASSWORD to what the server was started with; to change it: $me$flag stop, then start"
}

refuse_older_server() { # Redis 6 would not see the files of a newer one and would start empty
  if [[ -d $folder/appendonlydir && $("$server" --version 2>/dev/null) == *v=6.* ]]; then
    die $EX_FAIL "$server is older than the server that wrote $folder and cannot read its data" \
      'name the newer server with LARDER_SERVER, or another folder with LARDER_DATA'
  fi
}

start_local() {
  local pid answer deadline before output
  if pid=$(local_pid); then
    follow_local_port
    check_local_password
    require_answer "$pid"
    printf 'already running: %s (pid %s, data in %s)\n' "$(url)" "$pid" "$folder"
    if [[ $(render_config) != "$(<"$config")" ]]; then
      printf 'settings have changed since; they apply after: %s%s stop, then start\n' "$me" "$flag"
    fi
    return
  fi
  find_server
  output=$(mkdir -p "$folder" 2>&1) || die $EX_FAIL "cannot make the data folder $folder: ${output##*: }" \
    'name another folder with LARDER_DATA'
  folder=$(cd "$folder" && pwd -P)
  [[ $folder != *[[:cntrl:]]* ]] || die $EX_FAIL 'the name of the data folder contains a control character'
  config=$folder/server.conf pid_file=$folder/server.pid log_file=$folder/server.log
  output=$(chmod 700 "$folder" 2>&1) || die $EX_FAIL "cannot write to the data folder $folder: ${output##*: }" \
    'name another folder with LARDER_DATA'
  require_disk
  hold_start
  # Another start may have won while this one waited for the lock.
  if local_pid >/dev/null; then
    rm -f "$folder/start.lock"
    trap - EXIT
    start_local
    return
  fi
  refuse_taken_port
  refuse_older_server
  rm -f "$pid_file"
  render_config >"$config.new"
  chmod 600 "$config.new"
  mv "$config.new" "$config"
  before=$(wc -c 2>/dev/null <"$log_file") || before=0
  # LC_ALL: Redis 7 refuses to start under a locale that is not installed.
  if ! output=$(LC_ALL=C "$server" "$config" </dev/null 2>&1); then
    require_disk
    die $EX_FAIL "$server did not start:" "$output" "$(tail -c +$((before + 1)) "$log_file" 2>/dev/null | tail -n 15)"
  fi
  deadline=$((SECONDS + wait_seconds))
  local grace=$((SECONDS + 5)) # for the pid file to appear
  while :; do
    answer=$(ask 2) || answer=''
    if pid=$(local_pid); then
      case $answer in +PONG* | -NOAUTH* | -MISCONF*) break ;; esac
    elif ((SECONDS >= grace)) || tail -c +$((before + 1)) "$log_file" 2>/dev/null | grep -qiE 'aborting|fatal|bye bye'; then
      require_disk # which may be why it ended, and why its log does not say so
      die $EX_FAIL "$server ended right after its start; the end of $log_file:" \
        "$(tail -c +$((before + 1)) "$log_file" 2>/dev/null | tail -n 15)"
    fi
    if ((SECONDS >= deadline)); then
      die $EX_FAIL "no answer after $wait_seconds seconds (last: ${answer:-none}); pid ${pid:-unknown}, log $log_file" \
        "it may still be loading: $me$flag status"
    fi
    sleep 0.1
  done
  printf 'started: %s (pid %s, data in %s)\n' "$(url)" "$pid" "$folder"
  if ! has redis-cli && ! has valkey-cli; then
    printf 'for cli, flush and info you also need redis-cli or valkey-cli: %s\n' "$(install_line client)"
  fi
}

readonly disk_troubles='No space left on device|Read-only file system|Disk quota exceeded|Input/output error'

can_write() { # to the data folder; sets why it cannot. More than a name: a full disk still takes those.
  local probe=$folder/write.probe
  if why=$( (printf '%8192s' '' >"$probe") 2>&1) && why=$(rm -f "$probe" 2>&1); then return 0; fi
  why=${why##*: }
  rm -f "$probe" 2>/dev/null || true
  return 1
}

require_disk() {
  local why=''
  can_write || die $EX_FAIL "cannot write to the data folder $folder: $why" \
    "$(df -h "$folder" 2>/dev/null | tail -n 1 || true)" 'make room there, or name another folder with LARDER_DATA'
}

hold_start() { # two starts at once would both launch, and the loser's pid would overwrite the winner's
  local lock=$folder/start.lock owner deadline=$((SECONDS + wait_seconds))
  until (set -o noclobber && printf '%s' "$$" >"$lock") 2>/dev/null; do
    owner=$(cat "$lock" 2>/dev/null) || owner=''
    if [[ -n $owner ]] && ! kill -0 "$owner" 2>/dev/null && mkdir "$lock.stale" 2>/dev/null; then
      # That owner may have ended normally, and the lock may belong to the next one by now. If it still names the dead
      # process, only the process that created this folder removes it.
      if [[ $(cat "$lock" 2>/dev/null) == "$owner" ]]; then rm -f "$lock"; fi
      rm -rf "$lock.stale"
      continue
    fi
    ((SECONDS < deadline)) || die $EX_FAIL "another start is under way (pid ${owner:-unknown}); if that is wrong: rm -r '$lock'*"
    sleep 0.1
  done
  # shellcheck disable=SC2064 # the path of now
  trap "rm -f $(printf %q "$lock")" EXIT
}

stop_local() {
  local pid deadline before why
  if ! pid=$(local_pid); then
    printf 'not running (data in %s)\n' "$folder"
    return
  fi
  before=$(wc -c 2>/dev/null <"$log_file") || before=0
  kill -TERM "$pid" || die $EX_FAIL "may not stop process $pid"
  deadline=$((SECONDS + wait_seconds))
  while local_pid >/dev/null; do
    ((SECONDS < deadline)) || die $EX_FAIL "process $pid still runs after $wait_seconds seconds; the end of $log_file:" \
      "$(tail -n 5 "$log_file")" "$(if is_suspended "$pid"; then printf 'the process is suspended; let it go on: kill -CONT %s' "$pid"; fi)"
    sleep 0.1
  done
  rm -f "$pid_file" 2>/dev/null || true
  why=$(tail -c +$((before + 1)) "$log_file" 2>/dev/null | grep -oE "$disk_troubles" | tail -n 1) || why=''
  if [[ -n $why ]] || ! can_write; then
    die $EX_FAIL "stopped (pid $pid), but its last writes may be lost: $folder could not be written to: $why"
  fi
  printf 'saved and stopped (pid %s, data in %s)\n' "$pid" "$folder"
}

# ---- a container -----------------------------------------------------------------------------------------------------

compose() { docker compose --project-directory "$here" -f "$here/compose.yaml" --profile coordination "$@"; }
container() { compose ps --status running --quiet "$service" 2>/dev/null | head -n 1; }

container_limit() { # twice maxmemory, in bytes: see compose.yaml
  awk -v size="$maxmemory" 'BEGIN {
    n = size + 0; u = tolower(size); sub(/^[0-9]+/, "", u)
    f["k"] = 1e3; f["kb"] = 1024; f["m"] = 1e6; f["mb"] = 1024^2; f["g"] = 1e9; f["gb"] = 1024^3
    n *= (u in f) ? f[u] : 1
    least = 64 * 1024^2
    printf "%.0f", n == 0 ? 0 : (2 * n < least ? least : 2 * n) }'
}

start_compose() {
  if [[ -n $(container) ]]; then
    check_password
    printf 'already running: %s (container %s)\n' "$(url)" "$service"
    return
  fi
  refuse_taken_port
  if [[ $role == cache ]]; then export REDIS_MEMORY_LIMIT=${REDIS_MEMORY_LIMIT:-$(container_limit)}
  else export REDIS_COORDINATION_MEMORY_LIMIT=${REDIS_COORDINATION_MEMORY_LIMIT:-$(container_limit)}
  fi
  compose up --detach --wait --wait-timeout "$wait_seconds" "$service" || {
    compose logs --no-color --tail 15 "$service" >&2 || true
    die $EX_FAIL "the container $service did not get healthy; its last lines stand above"
  }
  printf 'started: %s (container %s)\n' "$(url)" "$service"
}

stop_compose() {
  if [[ -z $(container) ]]; then
    printf 'not running (container %s)\n' "$service"
    return
  fi
  compose stop "$service"
  printf 'saved and stopped (container %s; its volume stays)\n' "$service"
}

# ---- talking to the server -------------------------------------------------------------------------------------------

require_running() {
  local pid=''
  if [[ $mode == compose ]]; then
    if [[ -n $(container) ]]; then
      require_answer ''
      return
    fi
  elif pid=$(local_pid); then
    follow_local_port
    require_answer "$pid"
    return
  fi
  die $EX_STOPPED "the $role server is not running; start it: $me$flag start"
}

client_run() { # arguments of redis-cli
  client_command "$@"
  if [[ -n $password ]]; then REDISCLI_AUTH=$password "${command[@]}"; else "${command[@]}"; fi
}

client_ask() { # the same for a command that has no input; a server that stops answering meanwhile does not hold it up
  client_command "$@"
  if [[ -n $password ]]; then REDISCLI_AUTH=$password within "$answer_seconds" "${command[@]}" </dev/null
  else within "$answer_seconds" "${command[@]}" </dev/null
  fi
}

client_command() { # sets command
  if [[ $mode == compose ]]; then
    local how=(-i)
    if [[ -t 0 && -t 1 ]]; then how=(-it); fi
    # `-e NAME` without a value takes it from this environment, not from the command line.
    if [[ -n $password ]]; then how+=(-e REDISCLI_AUTH); fi
    command=(docker exec "${how[@]}" "$(container)" valkey-cli "$@")
  else command=("$client" -h 127.0.0.1 -p "$port" "$@")
  fi
}

check_password() {
  local answer
  if [[ $mode == local ]]; then find_client; fi
  # redis-cli prints a warning if its password is refused, and its exit code is 0.
  answer=$(client_ask PING 2>&1) || die $EX_FAIL "no answer from $(url) within $answer_seconds seconds${answer:+: $answer}"
  case $answer in
    *NOAUTH* | *WRONGPASS* | *'AUTH failed'* | *'invalid password'*) refuse_password "$answer" ;;
    *PONG* | *MISCONF*) ;; # MISCONF: its disk is full, and it serves reads
    *LOADING*) die $EX_FAIL 'the server is still loading its data; try again' ;;
    *) die $EX_FAIL "unexpected answer from $(url): $answer" ;;
  esac
}

no_answer() { printf 'the server gave no answer within %s seconds' "$answer_seconds"; }
field() { sed -n "s/^$1://p" <<<"$information" | tr -d '\r'; } # of INFO

disk_problem() { # of a server that runs and cannot write
  local why=''
  if [[ $(field aof_last_write_status) == err ]]; then
    if [[ $mode == local ]]; then can_write || true; fi
    printf 'writes are refused: the append-only file cannot be written%s' "${why:+: $why}"
  elif [[ $(field aof_last_bgrewrite_status) == err ]]; then
    printf 'the append-only file could not be rewritten and grows; see: %s%s logs' "$me" "$flag"
  fi
}

age() {
  local s=$1
  if ((s >= 86400)); then printf '%dd %dh' $((s / 86400)) $((s % 86400 / 3600))
  elif ((s >= 3600)); then printf '%dh %dm' $((s / 3600)) $((s % 3600 / 60))
  elif ((s >= 60)); then printf '%dm %ds' $((s / 60)) $((s % 60))
  else printf '%ds' "$s"
  fi
}

version() {
  local v
  v=$(field valkey_version)
  if [[ -n $v ]]; then printf 'valkey %s' "$v"; else printf 'redis %s' "$(field redis_version)"; fi
}

status() {
  local pid='' place information problem='' code=0
  if [[ $mode == compose ]]; then
    place="Docker volume larder_$service-data"
    if [[ -n $(container) ]]; then pid=$(docker inspect --format '{{.State.Pid}}' "$(container)"); fi
  else
    place=$folder
    pid=$(local_pid) || pid=''
  fi
  if [[ -z $pid ]]; then
    row 'state' "stopped ($role, $mode)"
    row 'data' "$place"
    # A server that ended by itself leaves its pid file. If every write must reach the disk, a full disk ends the
    # server.
    if [[ $mode == local && -e $pid_file ]] && problem=$(tail -n 15 "$log_file" 2>/dev/null | grep -oE "$disk_troubles" | tail -n 1); then
      row 'problem' "it ended because the data folder could not be written to: $problem"
    fi
    exit $EX_STOPPED
  fi
  # Reports what is running even if the port or the password of this environment differ.
  if [[ $mode == local ]]; then port=$(setting port); fi
  problem=$(require_answer "$pid" 2>&1) || code=$EX_FAIL
  if [[ $code == 0 ]]; then information=$( (check_password && client_ask INFO) 2>&1) || problem=$information; fi
  row 'state' "running ($role, $mode)"
  row 'url' "$(url)"
  row 'pid' "$pid"
  if [[ -z $problem ]]; then
    problem=$(disk_problem)
    row 'server' "$(version)"
    row 'uptime' "$(age "$(field uptime_in_seconds)")"
    row 'data' "$place"
    row 'policy' "$(field maxmemory_policy), limit $(field maxmemory_human)"
    if [[ -n $problem ]]; then row 'problem' "$problem"; fi
  else
    row 'uptime' "$(ps -p "$pid" -o etime= 2>/dev/null | tr -d ' ' || true)"
    row 'data' "$place"
    row 'policy' "$policy (as configured)"
    printf '%s\n' "$problem" >&2
    exit "$code"
  fi
}

keys_named() { if [[ $1 == 1 ]]; then printf '1 key'; else printf '%s keys' "$1"; fi; }
key_count() { awk -F'[=,]' '/^db[0-9]+:keys=/ {n += $2} END {print n + 0}' <<<"$information"; }

flush() {
  local information keys answer
  check_password
  information=$(client_ask INFO keyspace) || die $EX_FAIL "$(no_answer)"
  keys=$(key_count)
  printf 'the %s server on port %s holds %s\n' "$role" "$port" "$(keys_named "$keys")"
  if [[ $yes != yes ]]; then
    [[ -t 0 ]] || die $EX_FAIL 'flush asks before it deletes, and there is no terminal to answer: add --yes'
    if [[ $role == coordination ]]; then printf 'these are locks that are held and limits that are partly used; '; fi
    read -r -p "delete $(keys_named "$keys")? [y/N] " answer || answer=''
    [[ $answer == [yY] || $answer == [yY][eE][sS] ]] || die $EX_FAIL 'nothing was deleted'
  fi
  answer=$(client_ask FLUSHALL ASYNC) || die $EX_FAIL "$(no_answer)" 'whether anything was deleted is not known'
  [[ $answer == OK ]] || die $EX_FAIL "the server refused: $answer"
  printf 'deleted %s\n' "$(keys_named "$keys")"
}

info() {
  local information
  check_password
  information=$(client_ask INFO) || die $EX_FAIL "$(no_answer)"
  awk -F: -v problem="$(disk_problem)" -v server="$(version)" -v uptime="$(age "$(field uptime_in_seconds)")" '
    { sub(/\r$/, ""); v[$1] = substr($0, length($1) + 2) }
    /^db[0-9]+:/ { split(v[$1], f, /[=,]/); keys[++dbs] = sprintf("%-20s %s, %s with an expiry", "keys in " $1, f[2], f[4]) }
    function row(name, value) { printf "%-20s %s\n", name, value }
    END {
      row("server", server); row("uptime", uptime)
      row("memory used", v["used_memory_human"]); row("memory peak", v["used_memory_peak_human"])
      row("memory limit", v["maxmemory"] + 0 ? v["maxmemory_human"] sprintf(" (%.0f%% used)", 100 * v["used_memory"] / v["maxmemory"]) : "none")
      row("policy", v["maxmemory_policy"])
      if (problem != "") row("problem", problem)
      hits = v["keyspace_hits"] + 0; reads = hits + v["keyspace_misses"]
      row("hit ratio", reads ? sprintf("%.1f%% (%d of %d reads)", 100 * hits / reads, hits, reads) : "no reads yet")
      row("evicted keys", v["evicted_keys"]); row("expired keys", v["expired_keys"])
      if (!dbs) row("keys", 0)
      for (i = 1; i <= dbs; i++) print keys[i]
      row("connected clients", v["connected_clients"] " (this one included)")
    }' <<<"$information"
}

logs() {
  if [[ $mode == compose ]]; then
    if [[ $follow == yes ]]; then exec docker compose --project-directory "$here" -f "$here/compose.yaml" --profile coordination logs --tail 100 --follow "$service"; fi
    compose logs --tail 100 "$service"
  else
    [[ -r $log_file ]] || die $EX_FAIL "no log at $log_file: the server was never started"
    if [[ $follow == yes ]]; then exec tail -n 100 -F "$log_file"; fi
    tail -n 100 "$log_file"
  fi
}

# ---- the command line ------------------------------------------------------------------------------------------------

misuse() { die $EX_USAGE "$1" "see: $me --help"; }

verb='' coordination=no yes=no follow=no
while (($# > 0)); do
  case $1 in
    -h | --help | help)
      usage
      exit 0
      ;;
    --coordination) coordination=yes ;;
    -*) if [[ -z $verb ]]; then misuse "unknown option: $1"; fi
      case $verb$1 in
        flush--yes | flush-y) yes=yes ;;
        logs-f | logs--follow) follow=yes ;;
        *) misuse "$verb has no option $1" ;;
      esac ;;
    *)
      if [[ -n $verb ]]; then misuse "$verb takes no argument: $1"; fi
      case $1 in start | stop | status | cli | flush | logs | info) verb=$1 ;; *) misuse "unknown verb: $1" ;; esac
      if [[ $verb == cli ]]; then # the rest is redis-cli's
        shift
        if [[ ${1:-} == --coordination ]]; then
          coordination=yes
          shift
        fi
        break
      fi
      ;;
  esac
  shift
done
[[ -n $verb ]] || { usage >&2; exit $EX_USAGE; }

settings
choose_mode
case $verb in
  start | stop) "${verb}_$mode" ;;
  status | logs) "$verb" ;;
  cli)
    require_running
    check_password
    client_run "$@"
    ;;
  flush | info)
    require_running
    "$verb"
    ;;
esac
