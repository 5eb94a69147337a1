#!/bin/sh
# Prints the lines of FILE that ACK_LOG, as `sluice produce --ack-log` wrote it, does not list: what is still to be
# published after the command was killed. A last line of the log that the kill has torn does not count.
#
#     sh unacknowledged.sh ACK_LOG FILE > rest.jsonl
exec awk 'FILENAME == ARGV[1] { if (NF == 3) done[$1]; next } !(FNR in done)' "$1" "$2"
