"""A real Slurm of two nodes on this machine: a folder of its own, loopback alone, ended by its own pid files."""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ranks import ended, free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
PLACES = f"/usr/sbin{os.pathsep}/usr/bin"
FREEZER = Path("/sys/fs/cgroup/freezer")
"""Where this is there, Slurm finds every process of a job, orphans too; elsewhere it goes by parents."""
NODES = ("n1", "n2")
CONF = """ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=5
SlurmdTimeout=15
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=2000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=2000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"


class Cluster:
    """The running daemons; `call` is how Slurm's commands and pgolf's are given."""

    def __init__(self, folder: Path):
        self.folder = folder
        paths = os.pathsep.join([os.environ["PATH"], PLACES])
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": paths}
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))]:
            if name != "SLURM_CONF":
                del self.environment[name]

    def call(self, *command: object, check: bool = True, seconds: float = 120) -> str:
        """Standard output of a command; its failure is the test's, with what it says."""
        words = list(map(str, command))
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        user, ports = getpass.getuser(), [free_port() for _ in range(3)]
        names = dict(zip(("port", *NODES), ports, strict=True))
        is_cgroup = FREEZER.is_dir() and os.access(FREEZER, os.W_OK)
        names |= {"folder": self.folder, "user": user, "proctrack": "cgroup" if is_cgroup else "linuxproc"}
        (self.folder / "slurm.conf").write_text(CONF.format_map(names))
        (self.folder / "cgroup.conf").write_text(CGROUP if is_cgroup else "")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self.call("munged", "--force", f"--socket={self.folder}/munge.socket", *files)
        self.call("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.call("sinfo", "-h", "-t", "idle", "-o", "%D", "-p", "main", check=False) == "2", "nodes")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self.call("slurmd", "-N", node)

    def pid_of(self, daemon: str) -> int:
        """Process id of slurmctld, slurmd.n1 or slurmd.n2."""
        return int((self.folder / f"{daemon}.pid").read_text())

    def stop(self) -> None:
        """End jobs and daemons, by their pid files, the nodes' first."""
        self.call("scancel", "--me", check=False)
        with contextlib.suppress(AssertionError):
            self.wait(lambda: not self.call("squeue", "-h", check=False), "end of all jobs", 30)
        for daemon in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munge"):
            with contextlib.suppress(OSError, ValueError):
                pid = self.pid_of(daemon)
                os.kill(pid, signal.SIGTERM)
                with contextlib.suppress(AssertionError):
                    self.wait(lambda pid=pid: ended(pid), daemon, 20)
        for node in NODES:
            for place in sorted(FREEZER.glob(f"slurm_{node}/**/"), reverse=True):
                with contextlib.suppress(OSError):
                    place.rmdir()

    def wait(self, is_so: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait for something; a failure shows the queue and the end of the controller's log."""
        t_end = time.monotonic() + seconds
        while not is_so():
            log = self.folder / "slurmctld.log"
            said = log.read_text()[-1500:] if log.exists() else ""
            assert time.monotonic() < t_end, f"waited {seconds:g} s for {what}:\n{self.call('squeue', '-r')}\n{said}"
            time.sleep(0.2)

    def states(self, job: str) -> dict[str, str]:
        """{task: state} of a job's tasks, as long as Slurm remembers them."""
        shown = self.call("scontrol", "show", "job", job, "-o", check=False).splitlines()
        found = [dict(word.partition("=")[::2] for word in line.split()) for line in shown if line]
        return {one.get("ArrayTaskId", "0"): one["JobState"] for one in found}

    def wait_for_end(self, *jobs: str, seconds: float = 120) -> None:
        """Wait until no task of the jobs is in the queue."""
        for job in jobs:
            self.wait(lambda job=job: not self.call("squeue", "-h", "-j", job, check=False), f"job {job}", seconds)


def why_not() -> str:
    """Why Slurm cannot start here; empty where it can."""
    missing = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=f"{os.environ['PATH']}:{PLACES}")]
    return (
        f"Slurm is not installed ({', '.join(missing)} missing): slurmctld slurmd slurm-client munge" if missing else ""
    )


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster while inside."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
