"""Places boxes in layers and leads arrows around them, as in a layered (Sugiyama) drawing.

Every arrow keeps clear of every box by construction. A layer's boxes lie apart from each other.
Between two layers is a channel without boxes, in which arrows bend. An arrow that passes a layer
has a place of its own there. An arrow that leads back uses a channel or the free side of a box to
reach a lane beside the layers. Labels have space of their own where their arrow begins.

No part of it knows plans. Lengths are in units of the picture, x to the right, y down.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[float, float]
Heading: TypeAlias = Literal["down", "left", "right"]
Side: TypeAlias = Literal["left", "right"]

BESIDE = 28.0
"""Between two boxes of a layer."""
PASSING = 16.0
"""Between an arrow that passes a layer and what is beside it."""
LABEL_GAP = 5.0
"""Between an arrow and its label."""
PORT = 16.0
"""Between two arrows at one box."""
TRACK = 11.0
"""Between two arrows that run sideways in a channel."""
LANE = 18.0
"""Between two lanes beside the layers."""
BEND, WIDE_BEND = 30.0, 70.0
"""The height in which arrows bend between two layers: the least, and the most for long ways."""
LOOP_WIDTH, LOOP_TOP, LOOP_HEIGHT = 22.0, 22.0, 20.0
TIP = 4.0
"""From the point of an arrow head to the end of its line."""
ENTRY = 12.0
"""From the top of a box to an arrow that enters at its side."""
ROUND = 7.0
ROUNDS_OF_ORDER, ROUNDS_OF_PLACING = 8, 16


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow to draw. There is at most one from a box to another.

    Args:
        label: Width and height of its label; (0, 0) if it has none.
        main: Whether it is the usual way on, which should be straight.
    """

    source: str
    target: str
    label: Size = (0.0, 0.0)
    main: bool = False


@dataclass(slots=True)
class Route:
    """The drawn part of one or more arrows: arrows to the same box run together.

    Args:
        links: The numbers of the arrows.
        path: As the attribute ``d`` of an SVG path.
        tip: The point of its arrow head, with its heading; None if it ends where another begins.
    """

    links: list[int]
    path: str
    tip: tuple[float, float, Heading] | None = None


@dataclass(slots=True)
class Layout:
    """The positions of boxes, arrows and labels.

    Args:
        corners: The upper left corner of each box.
        sizes: Of each box; at least what was asked for.
        labels: Number of an arrow → the upper left corner of its label.
    """

    width: float = 0.0
    height: float = 0.0
    corners: dict[str, Point] = field(default_factory=dict[str, Point])
    sizes: dict[str, Size] = field(default_factory=dict[str, Size])
    routes: list[Route] = field(default_factory=list[Route])
    labels: dict[int, Point] = field(default_factory=dict[int, Point])


def lay_out(boxes: Mapping[str, Size], links: Sequence[Link]) -> Layout:
    """Place boxes and arrows.

    Args:
        boxes: Name → the least width and height. The first is at the top.
    """
    return _Layers(boxes, links).layout()


@dataclass(slots=True)
class _Node:
    """A box, or the place of an arrow that passes a layer.

    Args:
        box: Whether it is a box.
        left, right: From its middle to the end of the space that it needs.
        x: Its middle.
        outs: Its arrows to the next layer, and those that leave downwards and lead back.
        ins: Its arrows from the layer above, and those that lead back and enter from above.
        exits: Its arrows that leave at a side.
    """

    name: str
    box: bool
    rank: int
    width: float = 0.0
    height: float = 0.0
    left: float = PASSING / 2
    right: float = PASSING / 2
    x: float = 0.0
    outs: list[_Hop] = field(default_factory=list["_Hop"])
    ins: list[_Hop] = field(default_factory=list["_Hop"])
    exits: list[_Back] = field(default_factory=list["_Back"])
    loop: int | None = None


@dataclass(slots=True, eq=False)
class _Hop:
    """The part of arrows between two layers; of a way back, its beginning or its end.

    Args:
        start, end: From the middle of the node to the arrow.
        track: The number of its way sideways; only of a way back.
    """

    source: _Node | None
    target: _Node | None
    links: list[int]
    label: Size = (0.0, 0.0)
    main: bool = False
    start: float = 0.0
    end: float = 0.0
    back: _Back | None = None
    track: int = 0


@dataclass(slots=True, eq=False)
class _Back:
    """An arrow that leads back, through a lane at a side.

    Args:
        leave, enter: Its hops down from its source and down to its target; None if it uses the
            side of the box.
        y: Where it leaves at the side, from the top of its source.
    """

    link: int
    source: _Node
    target: _Node
    side: Side
    leave: _Hop | None = None
    enter: _Hop | None = None
    y: float = 0.0


class _Layers:
    def __init__(self, boxes: Mapping[str, Size], links: Sequence[Link]) -> None:
        self._links = links
        self._boxes = boxes
        self._loops = {link.source: i for i, link in enumerate(links) if link.source == link.target}
        self._forward, self._backward = self._directions()
        ranks = self._ranks()
        self._nodes = {name: _Node(name, True, ranks[name], *boxes[name]) for name in boxes}
        self._layers: list[list[_Node]] = [[] for _ in range(max(ranks.values()) + 1)]
        for node in self._nodes.values():
            self._layers[node.rank].append(node)
        self._hops: list[list[_Hop]] = [[] for _ in self._layers]
        self._backs: list[_Back] = []
        self._tops: list[float] = []
        self._bottoms: list[float] = []
        self._bends: list[tuple[float, float]] = []
        self.result = Layout()

    def layout(self) -> Layout:
        self._join()
        self._order()
        self._lead_back()
        self._place_ports()
        self._place_sideways()
        self._place_down()
        self._draw()
        return self.result

    # -- layers

    def _directions(self) -> tuple[list[int], list[int]]:
        """The numbers of the arrows that lead down, which make no cycle, and of the others."""
        order = {name: i for i, name in enumerate(self._boxes)}
        forward: list[int] = []
        after: dict[str, list[str]] = {name: [] for name in self._boxes}
        backward: list[int] = []
        for i, link in enumerate(self._links):
            if order[link.source] < order[link.target]:
                forward.append(i)
                after[link.source].append(link.target)
        tops = {link.target for link in self._links if not order[link.source]}
        for i, link in enumerate(self._links):
            if order[link.source] <= order[link.target]:
                continue
            # A plan begins at the top, even if its first step is not in a cycle.
            if link.target in tops or _reaches(after, link.target, link.source):
                backward.append(i)
            else:
                forward.append(i)
                after[link.source].append(link.target)
        return forward, backward

    def _ranks(self) -> dict[str, int]:
        """The layer of each box: below all boxes that lead to it."""
        after: dict[str, list[str]] = {name: [] for name in self._boxes}
        waits = dict.fromkeys(self._boxes, 0)
        for i in self._forward:
            after[self._links[i].source].append(self._links[i].target)
            waits[self._links[i].target] += 1
        first = next(iter(self._boxes))
        ranks = {name: 0 if name == first else 1 for name in self._boxes}
        ready = [name for name in self._boxes if not waits[name]]
        loose = [name for name in ready if name != first]
        for name in ready:  # grows
            for target in after[name]:
                ranks[target] = max(ranks[target], ranks[name] + 1)
                waits[target] -= 1
                if not waits[target]:
                    ready.append(target)
        for name in loose:  # as near as possible to what it leads to
            if after[name]:
                ranks[name] = max(1, min(ranks[target] for target in after[name]) - 1)
        return ranks

    def _join(self) -> None:
        """Make the hops between the layers; arrows to one box run together where they pass."""
        passing: dict[tuple[str, int], _Node] = {}
        between: dict[tuple[str, str, int], _Hop] = {}
        for i in self._forward:
            link = self._links[i]
            target = self._nodes[link.target]
            here = self._nodes[link.source]
            while here is not target:
                rank = here.rank + 1
                there = target
                if rank < target.rank:
                    key = (target.name, rank)
                    if key not in passing:
                        passing[key] = _Node(f"{target.name}@{rank}", False, rank)
                        self._layers[rank].append(passing[key])
                    there = passing[key]
                name = (here.name, there.name, rank)
                hop = between.get(name)
                if hop is None:
                    hop = _Hop(here, there, [])
                    between[name] = hop
                    here.outs.append(hop)
                    there.ins.append(hop)
                    self._hops[here.rank].append(hop)
                hop.links.append(i)
                if here.box:
                    hop.label = link.label
                hop.main = hop.main or link.main
                here = there

    def _order(self) -> None:
        """Order the nodes of each layer so that few arrows cross."""
        best, fewest = [list(layer) for layer in self._layers], self._crossings()
        for turn in range(ROUNDS_OF_ORDER):
            if not fewest:
                break
            down = turn % 2 == 0
            for layer in self._layers if down else reversed(self._layers):
                self._sort(layer, down=down)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self._layers], crossings
        self._layers = best

    def _sort(self, layer: list[_Node], *, down: bool) -> None:
        rank = layer[0].rank
        near = rank - 1 if down else rank + 1
        if not 0 <= near < len(self._layers):
            return
        where = {id(node): i for i, node in enumerate(self._layers[near])}
        keys: dict[int, float] = {}
        for i, node in enumerate(layer):
            beside = [
                hop.source if down else hop.target for hop in (node.ins if down else node.outs)
            ]
            found = [where[id(each)] for each in beside if each is not None]
            keys[id(node)] = sum(found) / len(found) if found else float(i)
        layer.sort(key=lambda node: keys[id(node)])

    def _crossings(self) -> int:
        total = 0
        for rank, hops in enumerate(self._hops[:-1]):
            above = {id(node): i for i, node in enumerate(self._layers[rank])}
            below = {id(node): i for i, node in enumerate(self._layers[rank + 1])}
            pairs = sorted((above[id(hop.source)], below[id(hop.target)]) for hop in hops)
            seen: list[int] = []
            for _, end in pairs:
                total += len(seen) - bisect_right(seen, end)
                insort(seen, end)
        return total

    # -- ways back

    def _lead_back(self) -> None:
        for i in self._backward:
            source, target = self._nodes[self._links[i].source], self._nodes[self._links[i].target]
            right = self._free(source, "right") + self._free(target, "right")
            left = self._free(source, "left") + self._free(target, "left")
            side: Side = "left" if left > right else "right"
            back = _Back(i, source, target, side)
            if self._free(source, side) and not (side == "right" and source.name in self._loops):
                source.exits.append(back)
            else:
                back.leave = _Hop(source, None, [i], self._links[i].label, back=back)
                source.outs.append(back.leave)
            if not self._free(target, side):
                back.enter = next(
                    (b.enter for b in self._backs if (b.target, b.side) == (target, side)), None
                ) or _Hop(None, target, [i], back=back)
                if back.enter not in target.ins:
                    target.ins.append(back.enter)
            self._backs.append(back)

    def _free(self, node: _Node, side: Side) -> bool:
        """Whether no box of its layer is between a box and the side of the picture."""
        boxes = [each for each in self._layers[node.rank] if each.box]
        return node is boxes[-1 if side == "right" else 0]

    # -- sizes, and where arrows meet boxes

    def _place_ports(self) -> None:
        for layer in self._layers:
            for node in layer:
                if node.box:
                    self._ports(node)

    def _ports(self, node: _Node) -> None:
        space_left, space_right = self._ports_below(node)
        self._ports_above(node)
        widest = max([abs(hop.start) for hop in node.outs] + [abs(h.end) for h in node.ins] + [0.0])
        node.width = max(node.width, 2 * widest + 20)
        half = node.width / 2
        node.left, node.right = max(half, space_left), max(half, space_right)
        if (loop := self._loops.get(node.name)) is not None:
            node.loop = loop
            width, height = self._links[loop].label
            node.right = max(node.right, half + LOOP_WIDTH + LABEL_GAP + width)
            node.height = max(node.height, LOOP_TOP + max(LOOP_HEIGHT, height) + 8)
        used: dict[Side, float] = {"left": 10.0, "right": 10.0}
        for back in node.exits:
            width, height = self._links[back.link].label
            back.y = used[back.side]  # from the bottom until the height is known
            used[back.side] += height + 12
            if back.side == "right":
                node.right = max(node.right, half + 2 * LABEL_GAP + width)
            else:
                node.left = max(node.left, half + 2 * LABEL_GAP + width)
        if node.exits:
            node.height = max(node.height, max(used.values()) + ENTRY + 6)
        for back in node.exits:
            back.y = node.height - back.y

    def _ports_below(self, node: _Node) -> Point:
        """Spread the arrows that leave downwards; returns the space on both sides of the middle."""
        where = self._where(node.rank + 1)

        def place(hop: _Hop) -> float:
            if hop.back is not None:
                return -1.0 if hop.back.side == "left" else float(len(where))
            return where.get(id(hop.target), 0.0)

        outs = sorted(node.outs, key=place)
        if not outs:
            return 0.0, 0.0
        straight = [i for i, hop in enumerate(outs) if hop.main and hop.back is None]
        middle = straight[0] if straight else len(outs) // 2
        right = _with_label(outs[middle])
        for hop in outs[middle + 1 :]:
            hop.start = max(right + PORT / 2, PORT)
            right = hop.start + _with_label(hop)
        left = 0.0
        for hop in reversed(outs[:middle]):
            hop.start = -(left + max(_with_label(hop) + PORT / 2, PORT))
            left = -hop.start
        return left + PORT / 2, right + PORT / 2

    def _ports_above(self, node: _Node) -> None:
        where = self._where(node.rank - 1)

        def place(hop: _Hop) -> float:
            if hop.back is not None:
                return -1.0 if hop.back.side == "left" else float(len(where))
            return where.get(id(hop.source), 0.0)

        ins = sorted(node.ins, key=place)
        straight = [i for i, hop in enumerate(ins) if hop.main]
        middle = straight[0] if straight else len(ins) // 2
        for i, hop in enumerate(ins):
            hop.end = (i - middle) * PORT

    def _where(self, rank: int) -> dict[int, float]:
        if not 0 <= rank < len(self._layers):
            return {}
        return {id(node): float(i) for i, node in enumerate(self._layers[rank])}

    # -- positions

    def _place_sideways(self) -> None:
        """Move the nodes of each layer so that arrows are as straight as the order allows."""
        for layer in self._layers:
            x = 0.0
            for before, node in zip([None, *layer], layer, strict=False):
                x += _apart(before, node) if before else 0.0
                node.x = x
        for turn in range(ROUNDS_OF_PLACING):
            for layer in self._layers if turn % 2 == 0 else reversed(self._layers):
                _settle(layer, above=True, below=True)
        for layer in reversed(self._layers):
            _settle(layer, above=False, below=True)
        for layer in self._layers:  # what has one way to it is straight below
            _settle(layer, above=True, below=False)
        left = min(node.x - node.left for layer in self._layers for node in layer)
        for layer in self._layers:
            for node in layer:
                node.x -= left

    def _place_down(self) -> None:
        """Give each layer and each channel its height, and ways sideways their tracks."""
        y = 0.0
        above = self._entering(0)
        y += TRACK * above + (8.0 if above else 0.0)
        for rank, layer in enumerate(self._layers):
            self._tops.append(y)
            heights = [node.height + _label_space(node) for node in layer if node.box]
            y += max(heights, default=0.0)
            y += 6.0
            leaving = [back for back in self._backs if back.leave and back.source.rank == rank]
            for track, back in enumerate(leaving, 1):
                if back.leave:
                    back.leave.track = track
            self._bottoms.append(y)
            y += TRACK * len(leaving)
            far = max([abs(_start(h) - _end(h)) for h in self._hops[rank]], default=0.0)
            bend = min(max(BEND, BEND + (far - 150) * 0.1), WIDE_BEND)
            self._bends.append((y, y + bend))
            y += bend
            y += TRACK * self._entering(rank + 1) + 8.0

    def _entering(self, rank: int) -> int:
        """How many ways back enter a layer from above; each gets its track."""
        hops = list(
            dict.fromkeys(b.enter for b in self._backs if b.enter and b.target.rank == rank)
        )
        for track, hop in enumerate(hops, 1):
            if hop:
                hop.track = track
        return len(hops)

    # -- drawing

    def _draw(self) -> None:
        result = self.result
        lanes = self._lanes()
        nodes = [node for layer in self._layers for node in layer]
        left = min([0.0, *(x - 4 for x in lanes.values())])
        for node in nodes:
            node.x -= left
        for node in self._nodes.values():
            corner = (node.x - node.width / 2, self._tops[node.rank])
            result.corners[node.name] = corner
            result.sizes[node.name] = (node.width, node.height)
            result.height = max(result.height, corner[1] + node.height + _label_space(node))
            self._draw_loop(node)
            for hop in node.outs:
                if hop.label[0]:
                    y = corner[1] + node.height + 4
                    result.labels[hop.links[0]] = (node.x + hop.start + LABEL_GAP, y)
        for rank, hops in enumerate(self._hops):
            for hop in hops:
                self._draw_hop(hop, rank)
        result.width = max(node.x + node.right for node in nodes)
        for back in self._backs:
            lane = lanes[id(back.target), back.side] - left
            self._draw_back(back, lane)
            result.width = max(result.width, lane + 4)
            result.height = max(result.height, self._leave_y(back) + 6)

    def _lanes(self) -> dict[tuple[int, Side], float]:
        """The x of the lane of each box and side with ways back; the shortest is innermost."""
        together: dict[tuple[int, Side], list[_Back]] = {}
        for back in self._backs:
            together.setdefault((id(back.target), back.side), []).append(back)
        spans = [
            (self._enter_y(group[0]), max(map(self._leave_y, group)), key, group)
            for key, group in together.items()
        ]
        taken: list[tuple[float, float, float]] = []
        found: dict[tuple[int, Side], float] = {}
        for top, bottom, key, group in sorted(spans, key=lambda span: span[1] - span[0]):
            found[key] = self._lane(top, bottom, group, taken)
            taken.append((found[key], top, bottom))
        return found

    def _lane(
        self, top: float, bottom: float, group: list[_Back], taken: list[tuple[float, float, float]]
    ) -> float:
        """The x of a lane that is outside of the layers on its way and beside other lanes."""
        sign = 1.0 if group[0].side == "right" else -1.0
        ranks = [back.source.rank for back in group] + [group[0].target.rank]
        passed = [n for layer in self._layers[min(ranks) : max(ranks) + 1] for n in layer]
        lane = max(sign * n.x + (n.right if sign > 0 else n.left) for n in passed) + LANE
        while any(
            abs(x - sign * lane) < LANE - 2 and y1 < bottom + 6 and top - 6 < y2
            for x, y1, y2 in taken
        ):
            lane += LANE
        return sign * lane

    def _draw_loop(self, node: _Node) -> None:
        if node.loop is None:
            return
        x, top = node.x + node.width / 2, self._tops[node.rank] + LOOP_TOP
        low, far, r = top + LOOP_HEIGHT, x + LOOP_WIDTH, ROUND
        path = (
            f"M{x:.1f} {low:.1f}H{far - r:.1f}Q{far:.1f} {low:.1f} {far:.1f} {low - r:.1f}"
            f"V{top + r:.1f}Q{far:.1f} {top:.1f} {far - r:.1f} {top:.1f}H{x + TIP:.1f}"
        )
        self.result.routes.append(Route([node.loop], path, (x, top, "left")))
        if self._links[node.loop].label[0]:
            self.result.labels[node.loop] = (far + LABEL_GAP, top)

    def _draw_hop(self, hop: _Hop, rank: int) -> None:
        if hop.source is None or hop.target is None:
            return
        x1, x2 = _start(hop), _end(hop)
        y1 = self._tops[rank] + (hop.source.height if hop.source.box else 0.0)
        (bend, bent), y2 = self._bends[rank], self._tops[rank + 1]
        path = f"M{x1:.1f} {y1:.1f}"
        if abs(x1 - x2) >= 0.5:
            half = (bend + bent) / 2
            path += f"V{bend:.1f}C{x1:.1f} {half:.1f} {x2:.1f} {half:.1f} {x2:.1f} {bent:.1f}"
        path += f"V{y2 - TIP if hop.target.box else y2:.1f}"
        tip: tuple[float, float, Heading] | None = (x2, y2, "down") if hop.target.box else None
        self.result.routes.append(Route(list(hop.links), path, tip))

    def _enter_y(self, back: _Back) -> float:
        top = self._tops[back.target.rank]
        return top - 4.0 - TRACK * back.enter.track if back.enter else top + ENTRY

    def _leave_y(self, back: _Back) -> float:
        if back.leave:
            return self._bottoms[back.source.rank] + TRACK * (back.leave.track - 0.5)
        return self._tops[back.source.rank] + back.y

    def _draw_back(self, back: _Back, lane: float) -> None:
        source, target = back.source, back.target
        sign = 1.0 if back.side == "right" else -1.0
        low, high = self._leave_y(back), self._enter_y(back)
        r = min(ROUND, abs(low - high) / 2)
        inner = lane - sign * r
        if back.leave:
            x = source.x + back.leave.start
            bottom = self._tops[source.rank] + source.height
            turned = x + sign * 5
            path = f"M{x:.1f} {bottom:.1f}V{low - 5:.1f}Q{x:.1f} {low:.1f} {turned:.1f} {low:.1f}"
        else:
            x = source.x + sign * source.width / 2
            path = f"M{x:.1f} {low:.1f}"
            width, height = self._links[back.link].label
            if width:
                left = x + LABEL_GAP if sign > 0 else x - LABEL_GAP - width
                self.result.labels[back.link] = (left, low - 3 - height)
        path += (
            f"H{inner:.1f}Q{lane:.1f} {low:.1f} {lane:.1f} {low - r:.1f}"
            f"V{high + r:.1f}Q{lane:.1f} {high:.1f} {inner:.1f} {high:.1f}"
        )
        if back.enter:
            x, top = target.x + back.enter.end, self._tops[target.rank]
            path += (
                f"H{x + sign * 5:.1f}Q{x:.1f} {high:.1f} {x:.1f} {min(high + 5, top):.1f}V{top:.1f}"
            )
            tip: tuple[float, float, Heading] = (x, top, "down")
        else:
            x = target.x + sign * target.width / 2
            path += f"H{x + sign * TIP:.1f}"
            tip = (x, high, "left" if sign > 0 else "right")
        self.result.routes.append(Route([back.link], path, tip))


def _reaches(after: Mapping[str, list[str]], start: str, goal: str) -> bool:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        if here == goal:
            return True
        fresh = [name for name in after[here] if name not in seen]
        seen.update(fresh)
        todo += fresh
    return False


def _with_label(hop: _Hop) -> float:
    """From an arrow to the end of its label."""
    return LABEL_GAP + hop.label[0] if hop.label[0] else 0.0


def _label_space(node: _Node) -> float:
    """Below a box, for the labels of the arrows that leave it downwards."""
    highest = max([hop.label[1] for hop in node.outs], default=0.0)
    return highest + 6 if highest else 0.0


def _start(hop: _Hop) -> float:
    return hop.source.x + hop.start if hop.source else 0.0


def _end(hop: _Hop) -> float:
    return hop.target.x + hop.end if hop.target else 0.0


def _apart(left: _Node, right: _Node) -> float:
    """The least distance of the middles of two neighbors."""
    between = BESIDE if left.box and right.box else PASSING / 2
    return left.right + between + right.left


def _settle(layer: list[_Node], *, above: bool, below: bool) -> None:
    """Move the nodes of a layer to where their arrows are straight, as far as there is space.

    Args:
        above, below: Whether the arrows from above, and those to below count.

    """
    # A weighted least squares problem with an order to keep: isotonic regression.
    shift = 0.0
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many nodes
    for i, node in enumerate(layer):
        shift += _apart(layer[i - 1], node) if i else 0.0
        wanted, weight = _wanted(node, above=above, below=below)
        mean, number = wanted - shift, 1
        while blocks and blocks[-1][0] >= mean:
            before, heavy, many = blocks.pop()
            mean = (mean * weight + before * heavy) / (weight + heavy)
            weight, number = weight + heavy, number + many
        blocks.append((mean, weight, number))
    means = [mean for mean, _, number in blocks for _ in range(number)]
    shift = 0.0
    for i, node in enumerate(layer):
        shift += _apart(layer[i - 1], node) if i else 0.0
        node.x = means[i] + shift


def _wanted(node: _Node, *, above: bool, below: bool) -> tuple[float, float]:
    """Where the arrows of a node would have its middle, and how much that matters."""
    total = weights = 0.0
    for hop in node.ins if above else ():
        if hop.source is not None:
            weight = _weight(hop)
            total += weight * (_start(hop) - hop.end)
            weights += weight
    for hop in node.outs if below else ():
        if hop.target is not None:
            weight = _weight(hop)
            total += weight * (_end(hop) - hop.start)
            weights += weight
    return (total / weights, weights) if weights else (node.x, 0.01)


def _weight(hop: _Hop) -> float:
    """How much an arrow should be straight: the usual way first, then what passes two layers."""
    ends = [end for end in (hop.source, hop.target) if end is not None and not end.box]
    return {0: 2000.0 if hop.main else 1.0, 1: 2.0, 2: 8.0}[len(ends)]
