#!/usr/bin/env bash
# A pipeline on a real Slurm: an array of four shards of which two are killed and put back into the queue, and the training that waits
# for them. Fails unless everything is made, and nothing that was recorded is made again.
#
#     apt-get install --no-install-recommends slurmctld slurmd slurm-client munge     # Debian's packages; no service need run
#     cargo build --release && tools/slurm.sh target/release/sd3pipe
#
# The cluster is one node, this machine, with daemons, keys, ports and folders of its own, gone at the end. Needs no root and touches no
# other Slurm: nothing below /etc is read or written.
set -euo pipefail
program=$(realpath "$1")
repository=$(realpath "$(dirname "$0")/..")
export PATH="$PATH:/usr/sbin:/sbin"
for needed in munged slurmctld slurmd sbatch scontrol python3; do
    command -v "$needed" > /dev/null || { echo "$needed is not installed: see the first lines of this script" >&2; exit 2; }
done

cluster=$(mktemp -d)
stop() {
    for daemon in slurmctld slurmd munged; do
        [ ! -s "$cluster/$daemon.pid" ] || kill "$(cat "$cluster/$daemon.pid")" 2> /dev/null || true
    done
    sleep 2
    [ "${KEEP:-}" ] && echo "kept: $cluster" || rm -rf "$cluster"
}
trap stop EXIT
mkdir "$cluster/state" "$cluster/spool" "$cluster/project"
head -c 1024 /dev/urandom > "$cluster/munge.key"
chmod 400 "$cluster/munge.key"
munged --key-file="$cluster/munge.key" --socket="$cluster/munge.socket" --pid-file="$cluster/munged.pid" \
    --log-file="$cluster/munged.log" --seed-file="$cluster/munge.seed" --force
node=$(hostname -s)
read -r controller daemon < <(python3 - << 'END'
import socket
sockets = [socket.socket() for _ in range(2)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
END
)
cat > "$cluster/slurm.conf" << END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$daemon
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$cluster/munge.socket
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=$node NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES State=UP
END
export SLURM_CONF="$cluster/slurm.conf"
slurmctld -c
slurmd

# The demo's pictures, each several times: bytes behind a picture's end make it another one.
cd "$cluster/project"
cp -r "$repository/pipelines/demo" "$repository/pipelines/demo.ron" .
for copy in $(seq "${COPIES:-12}"); do
    for picture in "$repository"/pipelines/demo/style/*.png; do
        name=$(basename "$picture" .png)
        { cat "$picture"; echo "$copy"; } > "demo/style/$name-$copy.png"
        { tr -d '\n' < "${picture%.png}.txt"; echo ", number $copy"; } > "demo/style/$name-$copy.txt"
    done
done
settings=(--set train.epochs=1 --set export.epochs=Last --set 'sample.prompts=["a yellow star"]' --set sample.steps=2)
"$program" submit --slurm demo.ron --shards 4 "${settings[@]}" | tee submitted
array=$(sed 's/^submitted \([0-9]*\),.*/\1/' submitted)
rest=$(sed 's/.* and \([0-9]*\),.*/\1/' submitted)

state() { scontrol --oneliner show job "$1" | sed 's/.*JobState=\([A-Z_]*\).*/\1/'; }
wait_for() { # what it is, and a command that tells whether it is there
    for _ in $(seq 1200); do
        # Once no job is left it comes now or never.
        over=$(squeue --noheader)
        if "${@:2}"; then return; fi
        [ "$over" ] || break
        sleep 0.5
    done
    echo "$1 never came" >&2
    squeue
    tail -n 5 slurm-*.out >&2
    exit 1
}
# Images that are recorded. From the first look on, whatever is recorded in the place of an older record is written down.
recorded() {
    python3 - "$1" << 'END'
import os, sqlite3, sys
if not os.path.exists(".sd3pipe/index.sqlite"):
    sys.exit(1)
index = sqlite3.connect(".sd3pipe/index.sqlite", timeout=60)
index.executescript("""
    CREATE TABLE IF NOT EXISTS replaced (label TEXT, preimage TEXT);
    CREATE TRIGGER IF NOT EXISTS note AFTER DELETE ON records BEGIN INSERT INTO replaced VALUES (old.label, old.preimage); END;
""")
(found,) = index.execute("SELECT count(*) FROM records WHERE preimage LIKE '%encode image%'").fetchone()
sys.exit(found < int(sys.argv[1]))
END
}
process_of() { # of a task of the array
    python3 - "$program" "$1" << 'END'
import os, sys
program, task = sys.argv[1:]
for number in filter(str.isdigit, os.listdir("/proc")):
    try:
        words, variables = (open(f"/proc/{number}/{name}").read().split("\0") for name in ("cmdline", "environ"))
    except OSError:
        continue
    if words[0] == program and f"SLURM_ARRAY_TASK_ID={task}" in variables and f"SLURM_CONF={os.environ['SLURM_CONF']}" in variables:
        print(number)
END
}
again() { [ "$(scontrol --oneliner show job "${array}_$1" | sed 's/.* Restarts=\([0-9]*\).*/\1/')" = 1 ]; }
# A task that has failed for good ends the training's wait: Slurm takes no dependency back. So neither of them is let to fail.
ended() { case $(state "$1") in COMPLETED | FAILED | CANCELLED | TIMEOUT | OUT_OF_MEMORY) ;; *) return 1 ;; esac; }

wait_for "the first images" recorded 32
squeue
echo "killing the program of task 2, which its job puts back into the queue, and task 3 as Slurm does when a node fails"
kill -9 "$(process_of 2)"
stopped=$(process_of 3)
kill -STOP "$stopped"
scontrol requeue "${array}_3"
kill -9 "$stopped"
for task in 2 3; do
    wait_for "the second start of task $task" again "$task"
    # Slurm waits two minutes before it starts a job again.
    scontrol update JobId="${array}_$task" StartTime=now
done
squeue
wait_for "the end of the training" ended "$rest"
tail -n 5 slurm-*.out
for job in "${array}_1" "${array}_2" "${array}_3" "${array}_4" "$rest"; do
    [ "$(state "$job")" = COMPLETED ] || { echo "job $job is $(state "$job")" >&2; exit 1; }
done
"$program" runs demo.ron
"$program" run demo.ron "${settings[@]}" | tee last
grep -q "^nothing to do" last
test -s out/demo/contact-sheet.png
python3 - << 'END'
import sqlite3, sys
index = sqlite3.connect(".sd3pipe/index.sqlite")
twice = index.execute("SELECT label FROM replaced WHERE preimage LIKE '%encode image%' OR preimage LIKE '%encode text%'").fetchall()
for kind in ("encode text", "encode image"):
    print(*index.execute("SELECT count(*) FROM records WHERE preimage LIKE ?", (f"%{kind}%",)).fetchone(), "records of", kind)
sys.exit(f"made again though it was recorded: {twice}" if twice else 0)
END
echo "two of four shards were killed; everything is made, and nothing that was recorded was made again"
