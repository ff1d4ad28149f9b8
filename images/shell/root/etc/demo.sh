#!/bin/sh
# What `cargo xtask run` shows when it has no terminal.
step() { echo; echo "\$ $*"; eval "$*"; }

step 'uname -a'
step 'cat /etc/motd'
step 'head -3 /proc/meminfo'
step 'echo $((6*7)) | cat'
step 'find / -xdev | wc -l'
step 'ls -l / | sort | head -5'
step 'yes | head -1000 | md5sum'
step '(sleep 1; echo a) & wait'
step 'ps'
echo
echo "Every one of these processes can be seen from outside with belljar ps."
