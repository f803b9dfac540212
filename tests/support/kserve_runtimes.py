"""What KServe's ServingRuntime may hold, as far as the shipped one uses it.

Names, types and limits are those of the custom resource ``serving.kserve.io/v1alpha1``.
A member that is not listed is refused here: in a cluster it would be dropped in silence.
"""


def _object(required=(), **members):
    return {
        "type": "object",
        "properties": members,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items):
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
YES_OR_NO = {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
AMOUNT = {
    "type": "string",
    "pattern": r"^[0-9]+(\.[0-9]*)?(([KMGTPE]i)|[numkMGTPE])?$",
}
AMOUNTS = _object(cpu=AMOUNT, memory=AMOUNT)
FORMAT = _object(
    ["name"],
    name=TEXT,
    version=TEXT,
    autoSelect=YES_OR_NO,
    priority={"type": "integer", "minimum": 1},
)
CONTAINER = _object(
    ["name", "image"],
    # KServe puts the model's volume and arguments into the container of this name.
    name={"const": "kserve-container"},
    image=TEXT,
    command=_list(TEXT),
    args=_list(TEXT),
    env=_list(_object(["name"], name=TEXT, value=TEXT)),
    ports=_list(
        _object(
            ["containerPort"],
            name=TEXT,
            containerPort=NUMBER,
            protocol={"enum": ["TCP", "UDP", "SCTP"]},
        )
    ),
    readinessProbe=_object(
        httpGet=_object(["port"], path=TEXT, port={"type": ["integer", "string"]})
    ),
    securityContext=_object(
        runAsNonRoot=YES_OR_NO,
        runAsUser=NUMBER,
        allowPrivilegeEscalation=YES_OR_NO,
        capabilities=_object(drop=_list(TEXT), add=_list(TEXT)),
    ),
    resources=_object(requests=AMOUNTS, limits=AMOUNTS),
)
SCHEMA = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "serving.kserve.io/v1alpha1"},
    kind={"enum": ["ServingRuntime", "ClusterServingRuntime"]},
    metadata=_object(
        ["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
    ),
    spec=_object(
        ["containers"],
        annotations=TEXTS,
        labels=TEXTS,
        supportedModelFormats=_list(FORMAT),
        protocolVersions=_list({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
        containers=_list(CONTAINER),
    ),
)
