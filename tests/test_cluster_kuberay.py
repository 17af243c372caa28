"""cluster.kuberay.yaml, as Kubernetes and Ray's autoscaler read it. There is no Kubernetes here to run it."""

from __future__ import annotations

import copy
import json
import os
import shlex
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaler import started
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jsonschema import Draft202012Validator
from paths import ROOT

from lacray import tune
from lacray.nodes import Node, Plan, plan, with_startable


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.kuberay.yaml").read_text())


# The fields of KubeRay 1.6's RayJob that a study may need, after its API reference: another name is a typo, which
# Kubernetes refuses, or drops without a word. (The whole schema has a megabyte, nearly all of it a pod's.)
TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}


def fields(required: tuple[str, ...] = (), **known: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


RESOURCES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
VARIABLE = fields(("name",), name=TEXT, value=TEXT, valueFrom=fields(fieldRef=fields(("fieldPath",), fieldPath=TEXT)))
CONTAINER = fields(
    ("name", "image", "resources"),
    name=TEXT,
    image=TEXT,
    env={"type": "array", "items": VARIABLE},
    envFrom={"type": "array", "items": fields(secretRef=fields(("name",), name=TEXT))},
    resources=fields(requests=RESOURCES, limits=RESOURCES),
)
POD = fields(
    ("spec",),
    spec=fields(
        ("containers",),
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        tolerations={"type": "array", "items": fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, effect=TEXT)},
        serviceAccountName=TEXT,
        nodeSelector={"type": "object", "additionalProperties": TEXT},
    ),
)
# Values of rayStartParams are words of a command line: `num-cpus: 0` without quotes is refused.
WORDS = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(("name",), name={"type": "string", "maxLength": 47, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}),
    spec=fields(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        runtimeEnvYAML=TEXT,
        suspend=FLAG,
        rayClusterSpec=fields(
            ("headGroupSpec", "rayVersion"),
            rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            authOptions=fields(("mode",), mode={"enum": ["disabled", "token"]}, secretName=TEXT),
            enableInTreeAutoscaling=FLAG,
            autoscalerOptions=fields(
                version={"enum": ["v1", "v2"]},
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                idleTimeoutSeconds=COUNT,
            ),
            headGroupSpec=fields(("template",), rayStartParams=WORDS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": fields(
                    ("groupName", "template"),
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=WORDS,
                    template=POD,
                ),
            },
        ),
    ),
)


def test_kubernetes_knows_every_field_of_the_job(job):
    validator = Draft202012Validator(RAY_JOB)
    assert [error.message for error in validator.iter_errors(job)] == []
    for path in (["spec", "backoffLimit"], ["spec", "rayClusterSpec", "authOptions"]):
        broken = copy.deepcopy(job)
        *folders, key = path
        inner = broken
        for folder in folders:
            inner = inner[folder]
        inner[key + "s"] = inner.pop(key)
        assert not validator.is_valid(broken)


def test_kuberays_autoscaler_starts_the_pods_that_a_study_is_planned_on(job):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    spec = job["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": spec})
    nodes = with_startable([Node("head", 0)], config)
    assert nodes[1:] == [Node("gpu", 8, 1, count=8)]
    made = plan(nodes, workers=1, gpus_per_worker=1)
    assert made == Plan(8, 8, 1)
    assert started(config, [{"CPU": made.cpus_per_worker, "GPU": 1}] * made.concurrent) == {"gpu": 8}


def test_the_job_is_a_study_that_goes_on_where_an_earlier_try_ended(job):
    spec = job["spec"]
    python, option, module, *words = shlex.split(spec["entrypoint"])
    assert [python, option, module] == ["python", "-m", "lacray.tune"]
    arguments = tune.parser().parse_intermixed_args(words)
    assert arguments.resume
    assert arguments.words, "without a search space there would be nothing to begin"
    assert arguments.results.startswith("s3://")
    assert spec["shutdownAfterJobFinishes"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    head, *groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    assert head["rayStartParams"]["num-cpus"] == "0", "trials must not run on the head"
    assert all(group["minReplicas"] == 0 for group in groups)
    given = {entry["name"] for entry in head["template"]["spec"]["containers"][0]["env"]}
    assert given == {"RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"}, "lacray.nodes reads what may be started by them"


ASK = """
import json
from lacray.nodes import Node, autoscaler_config, with_startable
nodes = with_startable([Node("head", 0)], autoscaler_config())
print(json.dumps([(node.name, node.cpus, node.gpus, node.count) for node in nodes]))
"""


def test_the_pods_that_may_be_started_are_read_from_kubernetes(job, tmp_path):
    cluster = {"metadata": {"name": "lacray-x", "namespace": "study"}, "spec": job["spec"]["rayClusterSpec"]}
    asked: list[str] = []

    class Kubernetes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(cluster).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    certificate, key = certified(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {
            **os.environ,
            "RAY_CLUSTER_NAME": "lacray-x",
            "RAY_CLUSTER_NAMESPACE": "study",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
            # In the place of the files of a service account.
            "RAY_KUBERAY_CA_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(key),
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert asked == ["/apis/ray.io/v1/namespaces/study/rayclusters/lacray-x"]
    assert json.loads(done.stdout) == [["head", 0, 0.0, 1], ["gpu", 8, 1, 8]]


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine for itself, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lacray")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(
            name, name, private.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key
