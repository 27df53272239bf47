// SPDX-License-Identifier: Apache-2.0
// What the room in 3D consists of, as objects of three.js.

const SKIN = 0xd9ad94;
const BEAM = 0x49b6ff;
const BEAM_ON = 0xffd54a;
const STAFF = 0xe0523f;
const GHOST = 0x39c16c;
const TARGET = [0, 0.4, 0.1];
const SAME = 5e-3; // m and rad: less is no motion
const at = (id) => document.getElementById(id);

/** The scene. Frame `table`: x towards the patient's head, y towards the right, z up; m. */
export class Parts {
  constructor(three, about) {
    this.three = three;
    this.about = about;
    const slow = inSoftware();
    this.slow = slow;
    this.renderer = new three.WebGLRenderer({ canvas: at("room-canvas"), antialias: !slow });
    this.renderer.setPixelRatio(slow ? 0.75 : Math.min(2, devicePixelRatio));
    this.scene = new three.Scene();
    this.eye = new three.PerspectiveCamera(40, 1, 0.05, 30);
    this.eye.up.set(0, 0, 1);
    const sun = new three.DirectionalLight(0xffffff, 1.8);
    sun.position.set(-2, -3, 5);
    this.floor = new three.GridHelper(6, 12, 0x71808e, 0x71808e);
    this.floor.rotation.x = Math.PI / 2;
    this.floor.position.z = about.floor;
    this.scene.add(new three.HemisphereLight(0xffffff, 0x60686f, 1.6), sun, this.floor);
    this.links = about.links.map(() => this.scene.add(new three.Group()).children.at(-1));
    this.geometries = [];
    this.changing = { patient: null, zones: null, ghost: null, beam: null, clearance: null };
    this.letters = new three.Group();
    this.scene.add(this.letters);
    this.name([-0.9, -0.3, 0], [0.9, 0.3, 0.25]);
  }

  async load() {
    const meshes = this.about.links.map(({ name, mesh }) => (mesh ? this.fetched(name) : null));
    this.geometries = await Promise.all(meshes);
    this.geometries.forEach((geometry, index) => {
      if (!geometry) return;
      const color = new this.three.Color(...this.about.links[index].color);
      this.links[index].add(new this.three.Mesh(geometry, new this.three.MeshLambertMaterial({ color })));
    });
    this.move(this.about.links.map(() => [0, 0, 0, 0, 0, 0, 1]));
    this.beam([0, 0], false);
    await this.renderer.compileAsync(this.scene, this.eye); // beside the page: a page that is held up loses its motions
    return this;
  }

  async fetched(name, version = 0) {
    const answer = await fetch(`/room/${name}?${version}`);
    if (!answer.ok) return null;
    const data = await answer.arrayBuffer();
    const count = new DataView(data).getUint32(0, true);
    const geometry = new this.three.BufferGeometry();
    geometry.setAttribute("position", new this.three.BufferAttribute(new Float32Array(data, 4, 3 * count), 3));
    geometry.setIndex(new this.three.BufferAttribute(new Uint32Array(data, 4 + 12 * count), 1));
    geometry.computeVertexNormals();
    return geometry;
  }

  /** Puts something in the place of what was there before. */
  exchange(name, object, parent = this.scene) {
    const old = this.changing[name];
    old?.traverse((part) => {
      if (part.geometry && !this.geometries.includes(part.geometry)) part.geometry.dispose();
      part.material?.map?.dispose();
      part.material?.dispose();
    });
    old?.removeFromParent();
    this.changing[name] = object;
    if (object) parent.add(object);
  }

  move(poses) {
    poses.forEach((pose, index) => place(this.links[index], pose));
  }

  beam([width, height], on) {
    const { source_isocenter: near, source_detector: far, detector } = this.about;
    const wide = width ? (width * far) / near / 1000 : detector[0];
    const high = height ? (height * far) / near / 1000 : detector[1];
    const corners = [[1, 1], [1, -1], [-1, -1], [-1, 1]].map(([x, y]) => [(x * high) / 2, (y * wide) / 2, far]); // x is up in the image, y left
    const positions = new Float32Array([[0, 0, 0], ...corners].flat());
    const attribute = new this.three.BufferAttribute(positions, 3);
    const sides = new this.three.BufferGeometry().setAttribute("position", attribute).setIndex([0, 1, 2, 0, 2, 3, 0, 3, 4, 0, 4, 1]);
    const edges = new this.three.BufferGeometry().setAttribute("position", attribute).setIndex([0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1]);
    const color = on ? BEAM_ON : BEAM;
    const group = new this.three.Group();
    group.add(new this.three.Mesh(sides, this.glass(color, on ? 0.45 : 0.14)));
    group.add(new this.three.LineSegments(edges, new this.three.LineBasicMaterial({ color, transparent: true, opacity: on ? 1 : 0.6 })));
    this.exchange("beam", group, this.links[this.about.links.findIndex(({ name }) => name === "xray_source")]);
  }

  /** The smallest clearance: a line with its length in mm beside it, seen through everything else. */
  clearance(about, label) {
    at("room").dataset.clearance = about ? label : "";
    if (!about) return this.exchange("clearance", null);
    const [x0, y0, z0, x1, y1, z1] = about.line;
    const [begin, end] = [new this.three.Vector3(x0, y0, z0), new this.three.Vector3(x1, y1, z1)];
    const material = new this.three.MeshBasicMaterial({ color: new this.three.Color(...about.color), depthTest: false, transparent: true });
    const group = new this.three.Group();
    const length = Math.max(begin.distanceTo(end), 1e-3);
    const rod = new this.three.Mesh(new this.three.CylinderGeometry(0.012, 0.012, length), material);
    rod.position.copy(begin).lerp(end, 0.5);
    rod.quaternion.setFromUnitVectors(new this.three.Vector3(0, 1, 0), end.clone().sub(begin).normalize());
    for (const place of [begin, end]) {
      const ball = new this.three.Mesh(new this.three.SphereGeometry(0.024), material);
      ball.position.copy(place);
      group.add(ball);
    }
    const sprite = this.letter(label, 0.1 + 0.075 * label.length);
    sprite.position.copy(rod.position).add(new this.three.Vector3(0, 0, 0.12));
    group.add(rod, sprite);
    group.traverse((part) => (part.renderOrder = 8));
    return this.exchange("clearance", group);
  }

  zones(boxes) {
    const group = new this.three.Group();
    for (const [x0, y0, z0, x1, y1, z1] of boxes) {
      const geometry = new this.three.BoxGeometry(x1 - x0, y1 - y0, z1 - z0);
      const box = new this.three.Mesh(geometry, this.glass(STAFF, 0.16));
      box.position.set((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2);
      box.add(new this.three.LineSegments(new this.three.EdgesGeometry(geometry), new this.three.LineBasicMaterial({ color: STAFF })));
      const label = this.letter("staff", 0.5);
      label.position.copy(box.position).setZ(z1);
      label.scale.multiplyScalar(0.6);
      group.add(box, label);
    }
    this.exchange("zones", group);
  }

  async patient(version) {
    const geometry = version ? await this.fetched("patient", version) : null;
    if (!geometry) return this.exchange("patient", null);
    geometry.computeBoundingBox();
    const { min, max } = geometry.boundingBox;
    this.name(min.toArray(), max.toArray());
    const material = new this.three.MeshLambertMaterial({ color: SKIN, transparent: true, opacity: 0.75 });
    return this.exchange("patient", new this.three.Mesh(geometry, material));
  }

  /** Marks head, feet, right and left at the sides of a box. */
  name(low, high) {
    this.letters.clear();
    const [x, y, z] = low.map((value, axis) => (value + high[axis]) / 2);
    const places = { H: [high[0] + 0.12, y, z], F: [low[0] - 0.12, y, z], R: [x, high[1] + 0.12, z], L: [x, low[1] - 0.12, z] };
    for (const [text, position] of Object.entries(places)) {
      const letter = this.letter(text);
      letter.position.set(...position);
      this.letters.add(letter);
    }
  }

  letter(text, wide = 0.16) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round(64 * (wide / 0.16)), 64];
    const context = canvas.getContext("2d");
    context.fillStyle = "#10151bcc";
    context.beginPath();
    context.roundRect(2, 2, canvas.width - 4, 60, 30);
    context.fill();
    context.fillStyle = "#fff";
    context.font = "bold 44px system-ui, sans-serif";
    [context.textAlign, context.textBaseline] = ["center", "middle"];
    context.fillText(text, canvas.width / 2, 35);
    const map = new this.three.CanvasTexture(canvas);
    map.colorSpace = this.three.SRGBColorSpace;
    const sprite = new this.three.Sprite(new this.three.SpriteMaterial({ map, depthTest: false, transparent: true }));
    sprite.scale.set(wide, 0.16, 1);
    sprite.renderOrder = 9;
    return sprite;
  }

  glass(color, opacity) {
    return new this.three.MeshBasicMaterial({ color, transparent: true, opacity, depthWrite: false, side: this.three.DoubleSide });
  }

  ghost(plan) {
    if (!plan) return this.exchange("ghost", null);
    const group = new this.three.Group();
    plan.machine.forEach((poses, step) => {
      const material = this.glass(GHOST, step === plan.machine.length - 1 ? 0.3 : 0.06);
      poses.forEach((pose, index) => {
        if (!this.geometries[index]) return;
        const mesh = place(new this.three.Mesh(this.geometries[index], material), pose);
        if (!near(mesh, this.links[index])) group.add(mesh);
      });
    });
    for (const path of plan.paths) {
      const geometry = new this.three.BufferGeometry().setFromPoints(path.map((point) => new this.three.Vector3(...point)));
      group.add(new this.three.Line(geometry, new this.three.LineBasicMaterial({ color: GHOST })));
    }
    return this.exchange("ghost", group);
  }

  draw({ azimuth, elevation, distance }, width, height) {
    const ratio = width / height;
    const far = distance * Math.max(1, 1.1 / ratio);
    const level = far * Math.cos(elevation);
    this.eye.position.set(TARGET[0] + level * Math.cos(azimuth), TARGET[1] + level * Math.sin(azimuth), TARGET[2] + far * Math.sin(elevation));
    this.eye.lookAt(...TARGET);
    this.eye.aspect = ratio;
    this.eye.updateProjectionMatrix();
    this.scene.background = new this.three.Color(getComputedStyle(document.body).backgroundColor);
    if (this.size !== `${width} ${height}`) this.renderer.setSize(width, height, false); // it clears what is drawn
    this.size = `${width} ${height}`;
    this.renderer.render(this.scene, this.eye);
  }
}

/** Whether WebGL has no graphics card, so that each pixel costs time of the processor. */
function inSoftware() {
  const gl = document.createElement("canvas").getContext("webgl2");
  const name = gl?.getExtension("WEBGL_debug_renderer_info");
  const software = /swiftshader|llvmpipe|software/i.test(name ? gl.getParameter(name.UNMASKED_RENDERER_WEBGL) : "");
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return software;
}

function near(one, other) {
  return one.position.distanceTo(other.position) < SAME && one.quaternion.angleTo(other.quaternion) < SAME;
}

function place(object, [x, y, z, ...turn]) {
  object.position.set(x, y, z);
  object.quaternion.set(...turn).normalize();
  return object;
}
