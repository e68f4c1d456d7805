// Ogg pages (RFC 3533) around Opus packets (RFC 7845), one stream, made and taken apart.

const HEADER = 27; // bytes, before the table of segments
const BEGINS = 2, CONTINUES = 1;
export const CLOCK = 48000; // Opus counts in this, whatever the sound's rate is

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte << 24;
  for (let bit = 0; bit < 8; bit += 1) value = value & 0x80000000 ? (value << 1) ^ 0x04c11db7 : value << 1;
  return value >>> 0;
});

function checksum(bytes) {
  let value = 0;
  for (const byte of bytes) value = ((value << 8) ^ TABLE[((value >>> 24) ^ byte) & 255]) >>> 0;
  return value;
}

const ascii = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));

// The identification header, for an encoder that gives none.
function head(rate) {
  const bytes = new Uint8Array(19);
  bytes.set(ascii("OpusHead"));
  bytes.set([1, 1], 8); // version, channels
  const view = new DataView(bytes.buffer);
  view.setUint16(10, 312, true); // samples at 48 kHz that the encoder looks ahead
  view.setUint32(12, rate, true);
  return bytes;
}

function tags() {
  const vendor = ascii("edgekit");
  const bytes = new Uint8Array(16 + vendor.length);
  bytes.set(ascii("OpusTags"));
  new DataView(bytes.buffer).setUint32(8, vendor.length, true);
  bytes.set(vendor, 12); // and no comments
  return bytes;
}

export class OggWriter {
  #serial = crypto.getRandomValues(new Uint32Array(1))[0];
  #page = 0;
  #granule = 0; // samples at 48 kHz so far

  // description: the encoder's own identification header, if it gives one.
  begin(rate, description) {
    const known = description && new Uint8Array(description.buffer ?? description);
    return joined([this.#make(known?.length >= 19 ? known : head(rate), BEGINS), this.#make(tags())]);
  }

  // A packet of so many microseconds, as a page of its own.
  add(packet, duration) {
    this.#granule += Math.round((duration * CLOCK) / 1e6);
    return this.#make(packet);
  }

  #make(packet, flags = 0) {
    const segments = Math.floor(packet.length / 255) + 1;
    const page = new Uint8Array(HEADER + segments + packet.length);
    const view = new DataView(page.buffer);
    page.set(ascii("OggS"));
    page[5] = flags;
    view.setUint32(6, this.#granule >>> 0, true);
    view.setUint32(10, Math.floor(this.#granule / 2 ** 32), true);
    view.setUint32(14, this.#serial, true);
    view.setUint32(18, this.#page, true);
    page[26] = segments;
    page.fill(255, HEADER, HEADER + segments - 1);
    page[HEADER + segments - 1] = packet.length % 255;
    page.set(packet, HEADER + segments);
    view.setUint32(22, checksum(page), true);
    this.#page += 1;
    return page;
  }
}

export class OggReader {
  #held = new Uint8Array(0);
  #part = []; // segments of a packet that goes on in the next page

  // The packets that these bytes, cut anywhere, complete; headers are left out.
  *feed(bytes) {
    this.#held = joined([this.#held, bytes]);
    let page;
    while ((page = this.#take()) !== null) {
      for (const packet of this.#packets(page)) {
        const name = String.fromCharCode(...packet.subarray(0, 8));
        if (name !== "OpusHead" && name !== "OpusTags") yield packet;
      }
    }
  }

  #take() {
    const held = this.#held;
    if (held.length < HEADER) return null;
    if (String.fromCharCode(...held.subarray(0, 4)) !== "OggS") throw new Error("no Ogg page where one begins");
    const segments = held[26];
    if (held.length < HEADER + segments) return null;
    const lengths = held.subarray(HEADER, HEADER + segments);
    const size = HEADER + segments + lengths.reduce((sum, length) => sum + length, 0);
    if (held.length < size) return null;
    this.#held = held.slice(size);
    return { flags: held[5], lengths, content: held.subarray(HEADER + segments, size) };
  }

  *#packets({ flags, lengths, content }) {
    if (!(flags & CONTINUES)) this.#part = [];
    let place = 0;
    for (const length of lengths) {
      this.#part.push(content.subarray(place, place + length));
      place += length;
      if (length === 255) continue;
      yield joined(this.#part);
      this.#part = [];
    }
  }
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}
