// Draws with sampler.onnx in Node, on onnxruntime-node or onnxruntime-web: node sample.mjs PACKAGE FILE.onnx OUT.bin
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [name, file, out] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`); // the packages are installed where it is called
const ort = await import(pathToFileURL(require.resolve(name)));
const { InferenceSession, Tensor } = ort.default ?? ort;

const session = await InferenceSession.create(new Uint8Array(fs.readFileSync(file)));
const { images } = await session.run({
  label: new Tensor('int32', Int32Array.of(0, 1, 1, 2, 3), [5]),
  index: new Tensor('int64', BigInt64Array.of(0n, 0n, 1n, 0n, 0n), [5]),
  seed: new Tensor('int64', BigInt64Array.of(2n ** 40n + 7n), []),
  guidance_scale: new Tensor('float32', Float32Array.of(3), [1]),
  rows: new Tensor('float32', new Float32Array(0), [0, 9]), // the file's default
});
fs.writeFileSync(out, new Uint8Array(images.data.buffer, images.data.byteOffset, images.data.byteLength));
console.log(images.dims.join(' '));
