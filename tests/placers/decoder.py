"""A Dag shaped like a decoder language model, made by hand."""

from __future__ import annotations

from dataclasses import replace

from fxdevice.dag import Dag, DagNode, NodeKind

HIDDEN_BYTES = 4_000
TABLE_BYTES = 5_000
MASK_BYTES = 1_600
STATE_BYTES = 100_000


class DagBuilder:
    """Collects nodes; every method returns the name of the node it adds."""

    def __init__(self) -> None:
        self.nodes: list[DagNode] = []

    def state(self, name: str, num_bytes: int, module: str = "", gradient_bytes: int = 0) -> str:
        self.nodes.append(
            DagNode(
                name,
                NodeKind.STATE,
                output_bytes=num_bytes,
                module=module,
                gradient_bytes=gradient_bytes,
            )
        )
        return name

    def input(self, name: str, num_bytes: int) -> str:
        self.nodes.append(DagNode(name, NodeKind.INPUT, output_bytes=num_bytes))
        return name

    def op(
        self,
        name: str,
        *inputs: str,
        num_bytes: int = HIDDEN_BYTES,
        flops: int = 0,
        traffic_bytes: int = 10_000,
        module: str = "",
        is_recomputable: bool = False,
        saved_bytes: int = 0,
        follows: str | None = None,
    ) -> str:
        self.nodes.append(
            DagNode(
                name,
                NodeKind.COMPUTE,
                tuple(dict.fromkeys(inputs)),
                output_bytes=num_bytes,
                flops=flops,
                traffic_bytes=traffic_bytes,
                module=module,
                is_recomputable=is_recomputable,
                saved_bytes=saved_bytes,
                follows=follows,
            )
        )
        return name

    def gradient(
        self,
        name: str,
        *inputs: str,
        follows: str | None,
        num_bytes: int = HIDDEN_BYTES,
        flops: int = 0,
    ) -> str:
        self.op(name, *inputs, num_bytes=num_bytes, flops=flops, follows=follows)
        self.nodes[-1] = replace(self.nodes[-1], is_backward=True)
        return name

    def linear(self, name: str, source: str, module: str, num_bytes: int = HIDDEN_BYTES) -> str:
        weight = self.state(f"{name}_weight", STATE_BYTES, module)
        turned = self.op(f"{name}_t", weight, num_bytes=STATE_BYTES, traffic_bytes=0, module=module)
        return self.op(
            f"{name}_mm",
            source,
            turned,
            num_bytes=num_bytes,
            flops=20_000_000,
            traffic_bytes=110_000,
            module=module,
        )


def decoder(
    num_layers: int = 4,
    embedding_bytes: int = 3_000_000,
    is_tied: bool = True,
    mask_is_recomputable: bool = False,
) -> Dag:
    """Returns embedding, layers with attention and MLP, norm, head; cos, sin and mask shared."""
    b = DagBuilder()
    b.input("ids", 400)
    table = b.state("embed_weight", embedding_bytes, "model.embed_tokens")
    frequencies = b.state("inv_freq", 64, "model.rotary")
    hidden = b.op("embedding", table, "ids", module="model.embed_tokens")
    positions = b.op("arange", num_bytes=400, is_recomputable=True)
    angles = b.op("angles", frequencies, positions, num_bytes=TABLE_BYTES, module="model.rotary")
    cos = b.op("cos", angles, num_bytes=TABLE_BYTES, module="model.rotary")
    sin = b.op("sin", angles, num_bytes=TABLE_BYTES, module="model.rotary")
    mask = b.op("mask", positions, num_bytes=MASK_BYTES, is_recomputable=mask_is_recomputable)
    for layer in range(num_layers):
        hidden = _layer(b, layer, hidden, cos, sin, mask)
    hidden = b.op("norm", hidden, module="model.norm")
    if is_tied:
        turned = b.op("head_t", table, num_bytes=embedding_bytes, traffic_bytes=0, module="lm_head")
        b.op("logits", hidden, turned, num_bytes=30_000, flops=10**7, module="lm_head")
    else:
        b.linear("head", hidden, "lm_head", 30_000)
    return Dag(tuple(b.nodes))


def _layer(b: DagBuilder, layer: int, hidden: str, cos: str, sin: str, mask: str) -> str:
    at = f"l{layer}"
    module = f"model.layers.{layer}"
    attention = f"{module}.self_attn"
    normed = b.op(f"{at}_norm1", hidden, module=f"{module}.norm1")
    query = b.linear(f"{at}_q", normed, f"{attention}.q")
    key = b.linear(f"{at}_k", normed, f"{attention}.k")
    value = b.linear(f"{at}_v", normed, f"{attention}.v")
    query = b.op(f"{at}_rope_q", query, cos, sin, module=attention)
    key = b.op(f"{at}_rope_k", key, cos, sin, module=attention)
    mixed = b.op(f"{at}_sdpa", query, key, value, mask, flops=10**6, module=attention)
    mixed = b.linear(f"{at}_o", mixed, f"{attention}.o")
    hidden = b.op(f"{at}_add1", hidden, mixed, module=module)
    normed = b.op(f"{at}_norm2", hidden, module=f"{module}.norm2")
    wide = b.linear(f"{at}_up", normed, f"{module}.mlp.up", 4 * HIDDEN_BYTES)
    wide = b.op(f"{at}_act", wide, num_bytes=4 * HIDDEN_BYTES, module=f"{module}.mlp")
    narrow = b.linear(f"{at}_down", wide, f"{module}.mlp.down")
    return b.op(f"{at}_add2", hidden, narrow, module=module)


def with_backward(dag: Dag) -> Dag:
    """Returns the graph with its backward pass, as autograd would lay it out.

    Every operation gets one backward node for each value that needs a gradient. It follows the
    operation and reads the gradient of its result and its other operands. Where several gradients
    meet, nodes that follow nothing add them up.
    """
    needs = {n.name for n in dag if n.kind is NodeKind.STATE and n.name != "inv_freq"}
    for node in dag:
        if any(name in needs for name in node.inputs):
            needs.add(node.name)
    forward = [_with_gradient(dag, node, needs) for node in dag]
    backward: list[DagNode] = [DagNode("tangent", NodeKind.INPUT, output_bytes=30_000)]
    gradients: dict[str, list[str]] = {dag.nodes[-1].name: ["tangent"]}
    for node in reversed(dag.nodes):
        if node.name not in needs or node.name not in gradients:
            continue
        total = _sum(backward, node, gradients[node.name])
        if node.kind is NodeKind.STATE:
            continue
        for source in node.inputs:
            if source in needs:
                others = [name for name in node.inputs if name != source]
                backward.append(
                    _gradient(f"{node.name}_d_{source}", node, dag[source], total, others)
                )
                gradients.setdefault(source, []).append(backward[-1].name)
    return Dag((*forward, *backward))


def _with_gradient(dag: Dag, node: DagNode, needs: set[str]) -> DagNode:
    if node.kind is NodeKind.STATE and node.name in needs:
        return replace(node, gradient_bytes=node.output_bytes)
    is_saved = node.kind is NodeKind.COMPUTE and node.has_work and bool(dag.users[node.name])
    return replace(node, saved_bytes=node.output_bytes if is_saved else 0)


def _gradient(name: str, node: DagNode, source: DagNode, total: str, others: list[str]) -> DagNode:
    return DagNode(
        name,
        NodeKind.COMPUTE,
        (total, *others),
        output_bytes=source.output_bytes,
        flops=node.flops,
        traffic_bytes=node.traffic_bytes,
        follows=node.name,
        is_backward=True,
        module=node.module,
    )


def _sum(backward: list[DagNode], node: DagNode, parts: list[str]) -> str:
    total = parts[0]
    for index, part in enumerate(parts[1:]):
        name = f"{node.name}_sum{index}"
        backward.append(
            DagNode(
                name,
                NodeKind.COMPUTE,
                (total, part),
                output_bytes=node.output_bytes,
                traffic_bytes=3 * node.output_bytes,
                is_backward=True,
            )
        )
        total = name
    return total
