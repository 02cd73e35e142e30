#!/usr/bin/env bash
# What a host of a slice does; `python -m sslx.launch` copies it there.
#
#   worker.sh setup ARCHIVE EXTRAS  unpacks sslx and installs it
#   worker.sh run NAME COMMAND...   starts the command, or finds it going on;
#                                   waits for its end, with its exit code
#   worker.sh logs|status|stop NAME
#   worker.sh number                prints the host's number in its slice
#
# A second `setup` or `run` repeats nothing. DRY_RUN=1 shows the commands.
set -euo pipefail

readonly state="$HOME/.sslx" env="$HOME/.sslx/env" code="$HOME/sslx"

execute() {
  if [[ ${DRY_RUN:-0} != 0 ]]; then
    printf '%s\n' "${*@Q}"
  else
    "$@"
  fi
}

# Whether a run holds its lock. A lock ends with the last process that has it.
is_running() {
  [[ -e $1/lock ]] && ! flock --nonblock "$1/lock" true
}

setup() {
  local archive=$1 extra=$2 run stamp packages=()
  for run in "$state"/runs/*/; do
    if is_running "$run"; then
      echo "a run is going on, so nothing is changed: $run"
      return
    fi
  done
  execute mkdir -p "$state/runs"
  execute rm -rf "$code"
  execute mkdir -p "$code"
  execute tar --extract --file="$HOME/$archive" --directory="$code"

  command -v gcc > /dev/null || packages+=(gcc)
  [[ -e /usr/include/jpeglib.h ]] || packages+=(libjpeg-dev)
  python3 -c 'import ensurepip' 2> /dev/null || packages+=(python3-venv)
  if ((${#packages[@]})); then
    execute sudo apt-get update -qq
    execute sudo apt-get install -y -qq "${packages[@]}"
  fi
  if [[ $extra == tpu* ]]; then  # As JAX advises for v5e and newer.
    execute sudo sh -c \
      'echo always > /sys/kernel/mm/transparent_hugepage/enabled'
  fi

  # A host's own Python may be too old, so uv brings one.
  stamp=$(tar --extract --to-stdout --file="$HOME/$archive" \
    setup.cfg setup.py sslx/data/_native.c | sha256sum)
  if [[ $(cat "$state/stamp" 2> /dev/null) == "$stamp$extra" ]]; then
    echo "already installed"
    return
  fi
  [[ -x $state/uv/bin/uv ]] || execute python3 -m venv "$state/uv"
  execute "$state/uv/bin/python" -m pip install --quiet uv
  execute "$state/uv/bin/uv" venv --quiet --allow-existing --python=3.12 "$env"
  execute "$state/uv/bin/uv" pip install --quiet --python="$env/bin/python" \
    --editable "${code}[$extra]"
  [[ ${DRY_RUN:-0} != 0 ]] || echo "$stamp$extra" > "$state/stamp"
}

# Runs in a session of its own, with the lock, after the connection is gone.
supervise() {
  local folder=$1 result=0 pid
  shift
  trap : HUP INT TERM  # They reach the command too; wait for its end.
  "$@" &
  pid=$!
  echo "$pid" > "$folder/pid"
  while
    wait "$pid" && result=0 || result=$?
    kill -0 "$pid" 2> /dev/null
  do :; done
  # An earlier process still holds the chips: a restart helps, later.
  if ((result == 1)) && tail -n 200 "$folder/log" |
    grep -qE '/dev/(vfio|accel).*busy|TPU is already in use'; then
    echo "worker.sh: the TPU is held by another process (exit 1 is now 175)"
    result=175
  fi
  echo "$result" > "$folder/exit"
}

run() {
  local folder=$state/runs/$1 tail
  shift
  mkdir -p "$folder"
  exec 9>> "$folder/lock"
  if flock --nonblock 9; then
    rm -f "$folder/exit" "$folder/pid"
    [[ ! -e $folder/log ]] || mv "$folder/log" "$folder/log.1"
    : > "$folder/log"
    cd "$code"
    PATH=$env/bin:$PATH PYTHONUNBUFFERED=1 setsid \
      bash "$HOME/worker.sh" supervise "$folder" "$@" \
      < /dev/null >> "$folder/log" 2>&1 &
  fi
  exec 9>&-
  tail --lines=+1 --follow "$folder/log" &
  tail=$!
  flock "$folder/lock" true  # Until its last process has ended.
  sleep 1  # For tail to print the rest.
  kill "$tail"
  [[ -e $folder/exit ]] || exit 143  # Ended with the host.
  exit "$(cat "$folder/exit")"
}

logs() {
  tail --lines=1000 "$state/runs/$1/log"
}

status() {
  local folder=$state/runs/$1
  if is_running "$folder"; then
    echo "running, process $(cat "$folder/pid")"
  elif [[ -e $folder/exit ]]; then
    echo "ended with exit code $(cat "$folder/exit")"
  else
    echo "no run"
  fi
}

# Never SIGKILL: it can leave the TPU unusable until the host is restarted.
stop() {
  local folder=$state/runs/$1
  if is_running "$folder"; then
    kill -TERM "$(cat "$folder/pid")"
    flock --timeout 110 "$folder/lock" true ||
      { echo "still saving after 110 s"; exit 1; }
  fi
}

number() {
  curl -sf -H 'Metadata-Flavor: Google' "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/tpu-env" |
    sed -n "s/^TPU_WORKER_ID: *'\([0-9]*\)'.*/\1/p"
}

"$@"
