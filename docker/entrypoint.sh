#!/bin/sh
# Folders that must exist before the program starts: the volume may be new and empty.
set -eu
umask 077
if ! mkdir -p "$HOME" "$TMPDIR" "$XDG_CACHE_HOME"; then
    echo "mri-posterior: /data is not writable for user $(id -u); make it so, for example with" >&2
    echo "  chown $(id -u):$(id -g) FOLDER       (Docker, a folder of the host)" >&2
    echo "  securityContext.fsGroup: $(id -g)    (Kubernetes)" >&2
    exit 2
fi
if [ ! -w /dev/shm ]; then
    echo "mri-posterior: /dev/shm cannot be written; mount one (shm_size, an emptyDir in memory)" >&2
fi
exec mri-posterior "$@"
