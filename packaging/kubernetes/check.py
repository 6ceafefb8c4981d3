"""Reads rendered manifests (standard input) as Kubernetes would, and says what does not fit together. Run by packaging/check.

    kubectl kustomize … | check.py [PROGRAM]

Schemas can't tell that a Service selects nobody, that a pod's name is not the one in --cluster, or that the program refuses its settings.
With the program, each pod's settings are given to it, with a data directory that can't be made: it ends there if it accepts them.
"""

import re
import subprocess
import sys

import yaml

# What the worker may take beyond its drain, and a controller to stop, in seconds (agent/mod.rs, role.rs).
DRAIN_MARGIN_S = 60
CONTROLLER_STOP_S = 45
NO_DIRECTORY = "/dev/null/chrono-flow"

wrong = []


def expect(holds, what):
    if not holds:
        wrong.append(what)


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def environment(pod, container, maps):
    """As the kubelet makes it: envFrom, then env in order, with $(NAME) of what came before."""
    env = {}
    for source in container.get("envFrom", []):
        env |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", []):
        if "value" in entry:
            value = re.sub(r"\$\((\w+)\)", lambda name: env.get(name[1], name[0]), entry["value"])
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
            value = pod["labels"].get(label[1], "") if label else {"metadata.name": pod["name"]}[path]
        env[entry["name"]] = value
    return env


def pods_of(workload):
    first = workload["spec"].get("ordinals", {}).get("start", 0)
    for ordinal in range(first, first + workload["spec"]["replicas"]):
        labels = workload["spec"]["template"]["metadata"]["labels"] | {"apps.kubernetes.io/pod-index": str(ordinal)}
        yield {"name": f"{workload['metadata']['name']}-{ordinal}", "labels": labels}


def check_program(binary, name, env):
    given = {key: value for key, value in env.items() if key.startswith("CHRONO_FLOW_")} | {"CHRONO_FLOW_DATA_DIR": NO_DIRECTORY}
    ended = subprocess.run([binary], env=given, capture_output=True, text=True, timeout=20)
    says = ended.stderr.strip()
    expect(ended.returncode == 1 and f"can't make the data directory {NO_DIRECTORY}" in says, f"{name}: the program says: {says}")


def check_pod(pod, workload, env, secrets, services, binary):
    name, spec = pod["name"], workload["spec"]["template"]["spec"]
    container = spec["containers"][0]
    role = env["CHRONO_FLOW_ROLE"]
    headless = services[workload["spec"]["serviceName"]]
    place = f"{name}.{headless['metadata']['name']}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    expect(headless["spec"].get("clusterIP") == "None" and headless["spec"].get("publishNotReadyAddresses"), f"{place}: its Service")
    expect(int(env["CHRONO_FLOW_RPC_LISTEN"].rsplit(":")[-1]) == ports["rpc"], f"{name}: the port of RPC")
    grace, drain = spec["terminationGracePeriodSeconds"], int(env.get("CHRONO_FLOW_DRAIN_S", 10))
    if role == "controller":
        members = dict(member.strip().split("=") for member in env["CHRONO_FLOW_CLUSTER"].split(","))
        expect(members.get(env["CHRONO_FLOW_NODE_ID"]) == f"{place}:{ports['rpc']}", f"{name} is not where --cluster says: {members}")
        expect(len(members) == workload["spec"]["replicas"], f"{name}: --cluster does not name all pods")
        expect(int(env["CHRONO_FLOW_HTTP_LISTEN"].rsplit(":")[-1]) == ports["http"], f"{name}: the port of the API")
        expect(grace >= CONTROLLER_STOP_S, f"{name}: {grace} s to stop")
    else:
        expect(env["CHRONO_FLOW_NODE_ID"] == name and env["CHRONO_FLOW_RPC_ADVERTISE"] == f"{place}:{ports['rpc']}", f"{name}: {env}")
        expect(grace >= drain + DRAIN_MARGIN_S, f"{name}: {grace} s to stop, and {drain} s of them to drain")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = {claim["metadata"]["name"] for claim in workload["spec"]["volumeClaimTemplates"]}
    expect(env["CHRONO_FLOW_DATA_DIR"] in [mounts[claim] for claim in claims], f"{name}: its data directory is on no volume of its own")
    files = set()
    for volume in spec["volumes"]:
        if "secret" in volume:
            keys = secrets[volume["secret"]["secretName"]]
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in keys]
            expect(all(item["key"] in keys for item in items), f"{name}: the Secret lacks a key")
            files |= {f"{mounts[volume['name']]}/{item['path']}" for item in items}
    for variable in [variable for variable in env if variable.endswith("_FILE")]:
        expect(env[variable] in files, f"{name}: {variable} is {env[variable]}; mounted are {sorted(files)}")
    if binary:
        check_program(binary, name, env)


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else None
    things = [thing for thing in yaml.safe_load_all(sys.stdin) if thing]
    of = lambda kind: {thing["metadata"]["name"]: thing for thing in things if thing["kind"] == kind}
    maps = {name: thing["data"] for name, thing in of("ConfigMap").items()}
    secrets = {name: set(thing["data"]) for name, thing in of("Secret").items()}
    services, pods = of("Service"), []
    for workload in of("StatefulSet").values():
        for pod in pods_of(workload):
            pods.append(pod)
            env = environment(pod, workload["spec"]["template"]["spec"]["containers"][0], maps)
            check_pod(pod, workload, env, secrets, services, binary)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        expect(selects(workload["spec"]["selector"]["matchLabels"], labels), f"{workload['metadata']['name']}: its selector")
    selectors = [(thing, thing["spec"]["selector"]) for thing in services.values()]
    selectors += [(thing, thing["spec"]["selector"]["matchLabels"]) for thing in of("PodDisruptionBudget").values()]
    selectors += [(thing, thing["spec"]["podSelector"]["matchLabels"]) for thing in of("NetworkPolicy").values()]
    for thing, selector in selectors:
        expect(any(selects(selector, pod["labels"]) for pod in pods), f"{thing['kind']} {thing['metadata']['name']} selects no pod")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if wrong or not pods:
        return 1
    print(f"{len(things)} resources, {len(pods)} pods")
    return 0


sys.exit(main())
