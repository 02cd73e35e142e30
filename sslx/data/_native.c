/* Decodes what is needed of a JPEG, and cuts all views out of it, without the
 * GIL: `crops(data, boxes, options, outs)`.
 *
 * Only the rows and columns that some view sees are decoded: their inverse
 * transform, upsampling and colour conversion are most of the work after the
 * entropy decoding, which cannot be skipped. Views are resized by a separable
 * antialiased filter in float, like Pillow's but for its rounding between the
 * two passes. Everything that this file does not handle, or finds damaged, is
 * a ValueError; the caller then tries slower decoders (see crops.py). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "jpeg_crop_scanline is libjpeg-turbo's"
#endif

/* Before GCC 12 these targets cannot be cloned; glibc resolves the clones. */
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && \
    defined(__x86_64__) && defined(__GLIBC__)
#define VECTORIZED \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORIZED
#endif

/* Four floats at any address: a pixel and the first value of the next. */
typedef float pixel
    __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
  double top, left, height, width; /* box, in pixels of the image */
  int size_y, size_x;              /* of the view */
  int flip, cubic;
  int bounded; /* whether the filter sees the pixels of the box alone */
  uint8_t *out;
} View;

typedef struct {
  int first, taps, size; /* first input pixel; row length of weights; outputs */
  int *start;            /* [size] */
  float *weight;         /* [size][taps], zero-padded */
} Filter;

/* One block of memory per thread, that grows to what its images need. */
typedef struct {
  size_t size;
  char *data;
} Scratch;

static pthread_key_t scratch_key;

static void scratch_free(void *pointer) {
  free(((Scratch *)pointer)->data);
  free(pointer);
}

static char *scratch(size_t size) {
  Scratch *mine = pthread_getspecific(scratch_key);
  if (!mine) {
    if (!(mine = calloc(1, sizeof *mine))) return NULL;
    pthread_setspecific(scratch_key, mine);
  }
  /* Neither grows for each image, nor keeps the memory of a giant one. */
  if (mine->size < size || mine->size > 4 * size + (64 << 20)) {
    free(mine->data);
    mine->size = 0;
    if (!(mine->data = malloc(size))) return NULL;
    mine->size = size;
  }
  return mine->data;
}

static double triangle(double x) { return x < 1 ? 1 - x : 0; }

/* Keys 1981, a = -1/2. */
static double keys(double x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
}

/* Weights that resample [start, start + length) to `size` pixels, from pixels
 * in [low, high). False if there is no memory. */
static int filter_init(Filter *f, int size, double start, double length,
                       int low, int high, int cubic, int flip) {
  double scale = length / size, widen = scale > 1 ? scale : 1;
  double radius = (cubic ? 2 : 1) * widen;
  f->size = size;
  f->taps = (int)ceil(radius) * 2 + 1;
  f->start = malloc(size * sizeof *f->start);
  f->weight = calloc((size_t)size * f->taps, sizeof *f->weight);
  if (!f->start || !f->weight) return 0;
  for (int i = 0; i < size; i++) {
    double centre = start + (i + 0.5) * scale, sum = 0;
    int from = (int)floor(centre - radius + 0.5);
    int to = (int)floor(centre + radius + 0.5);
    if (from < low) from = low;
    if (to > high) to = high;
    if (to - from > f->taps) to = from + f->taps;
    int place = flip ? size - 1 - i : i;
    float *w = f->weight + (size_t)place * f->taps;
    for (int j = from; j < to; j++) {
      double x = fabs(j + 0.5 - centre) / widen;
      sum += w[j - from] = (float)(cubic ? keys(x) : triangle(x));
    }
    for (int j = from; j < to; j++) w[j - from] /= (float)sum;
    /* Every tap is read, so that all of them must be pixels. */
    int first = from;
    if (first > high - f->taps) first = high - f->taps;
    if (first < low) first = low;
    if (first < from) {
      memmove(w + (from - first), w, (f->taps - (from - first)) * sizeof *w);
      memset(w, 0, (from - first) * sizeof *w);
    }
    f->start[place] = first;
  }
  return 1;
}

static void filter_free(Filter *f) {
  free(f->start);
  free(f->weight);
}

/* sum += w0 a + w1 b, over a row. */
VECTORIZED
static void add_rows(float *restrict sum, const uint8_t *restrict a,
                     const uint8_t *restrict b, float w0, float w1, int first,
                     int n) {
  if (first)
    for (int i = 0; i < n; i++) sum[i] = w0 * a[i] + w1 * b[i];
  else
    for (int i = 0; i < n; i++) sum[i] += w0 * a[i] + w1 * b[i];
}

/* Rows that are resized across together, so that a tap is a few whole vectors:
 * a column holds 3 values of each row, and one more for what `spread` spills. */
#define ROWS 5
#define LANES (3 * ROWS + 1)

/* Half a column: GCC spills vectors that are longer than the machine's. */
typedef float half
    __attribute__((vector_size(2 * LANES), aligned(4), may_alias));

/* Pixel x of a row to column x; the fourth value is the next row's to
 * overwrite. */
VECTORIZED
static void spread(float *restrict columns, const float *restrict row, int n) {
  for (int x = 0; x < n; x++)
    *(pixel *)(columns + (size_t)LANES * x) = *(const pixel *)(row + 3 * x);
}

VECTORIZED
static void across(float *restrict out, const float *restrict columns,
                   const int *restrict start, const float *restrict weight,
                   int taps, int size) {
  for (int x = 0; x < size; x++, weight += taps, out += LANES) {
    const float *p = columns + (size_t)LANES * start[x];
    half left = {0}, right = {0};
    for (int k = 0; k < taps; k++, p += LANES) {
      left += *(const half *)p * weight[k];
      right += *(const half *)(p + LANES / 2) * weight[k];
    }
    *(half *)out = left;
    *(half *)(out + LANES / 2) = right;
  }
}

VECTORIZED
static void to_bytes(uint8_t *restrict out, const float *restrict row, int n) {
  for (int i = 0; i < n; i++) {
    float x = row[i] + 0.5f;
    x = x < 0 ? 0 : x;
    x = x > 255 ? 255 : x;
    out[i] = (uint8_t)(int)x;
  }
}

/* One row out of the columns; a pixel is copied with the byte after it, which
 * the next pixel overwrites. */
static void gather(uint8_t *restrict out, const uint8_t *restrict columns,
                   int size) {
  for (int x = 0; x + 1 < size; x++)
    memcpy(out + 3 * (size_t)x, columns + (size_t)LANES * x, 4);
  memcpy(out + 3 * (size_t)(size - 1), columns + (size_t)LANES * (size - 1), 3);
}

/* Cuts one view out of pixels [y0, y0 + rows) x [x0, x0 + columns). */
static int cut(const View *view, const uint8_t *pixels, size_t stride, int y0,
               int x0, int rows, int columns) {
  int low_y = y0, high_y = y0 + rows, low_x = x0, high_x = x0 + columns;
  if (view->bounded) {
    low_y = (int)view->top;
    high_y = (int)fmin(ceil(view->top + view->height), high_y);
    low_x = (int)view->left;
    high_x = (int)fmin(ceil(view->left + view->width), high_x);
  }
  Filter down = {0}, right = {0};
  int wide = high_x - low_x, n = 3 * wide, size = view->size_x;
  float *block = NULL;
  int ok = filter_init(&down, view->size_y, view->top, view->height, low_y,
                       high_y, view->cubic, 0) &&
           filter_init(&right, size, view->left, view->width, low_x, high_x,
                       view->cubic, view->flip);
  /* Room for taps beyond a narrow image, which have no weight; and for the
   * value after a row, which `spread` reads. */
  size_t seen = LANES * ((size_t)wide + right.taps), made = LANES * (size_t)size;
  ok = ok && (block = calloc(seen + 2 * made + n + 4, sizeof *block));
  if (ok) {
    float *out = block + seen, *row = out + 2 * made;
    uint8_t *bytes = (uint8_t *)(out + made);
    for (int x = 0; x < size; x++) right.start[x] -= low_x;
    const uint8_t *base = pixels + 3 * (size_t)(low_x - x0);
    for (int y = 0; y < view->size_y; y++) {
      const float *w = down.weight + (size_t)y * down.taps;
      int first = 1, place = y % ROWS;
      for (int k = 0; k < down.taps; k += 2) {
        float w1 = k + 1 < down.taps ? w[k + 1] : 0;
        if (w[k] == 0 && w1 == 0) continue;
        int at = down.start[y] + k - y0;
        const uint8_t *a = base + stride * at;
        const uint8_t *b = w1 == 0 ? a : a + stride;
        /* A tap beyond the last row has no weight; the row before has. */
        if (at >= rows) continue;
        add_rows(row, a, b, w[k], w1, first, n);
        first = 0;
      }
      spread(block + 3 * place, row, wide);
      if (place < ROWS - 1 && y < view->size_y - 1) continue;
      across(out, block, right.start, right.weight, right.taps, size);
      to_bytes(bytes, out, LANES * size);
      for (int r = 0; r <= place; r++)
        gather(view->out + (size_t)(y - place + r) * 3 * size, bytes + 3 * r,
               size);
    }
  }
  filter_free(&down);
  filter_free(&right);
  free(block);
  return ok;
}

typedef struct {
  struct jpeg_error_mgr base;
  jmp_buf back;
  char text[JMSG_LENGTH_MAX];
} Errors;

static void on_error(j_common_ptr info) {
  Errors *errors = (Errors *)info->err;
  info->err->format_message(info, errors->text);
  longjmp(errors->back, 1);
}

/* Damage is a warning (-1): no more is decoded, and nothing is printed. */
static void on_message(j_common_ptr info, int level) {
  if (level < 0) on_error(info);
}

/* To be called before setjmp. */
static void set_errors(struct jpeg_decompress_struct *info, Errors *errors) {
  info->err = jpeg_std_error(&errors->base);
  errors->base.error_exit = on_error;
  errors->base.emit_message = on_message;
}

/* To be called after setjmp. */
static void read_header(struct jpeg_decompress_struct *info,
                        const uint8_t *data, size_t length) {
  jpeg_create_decompress(info);
  jpeg_mem_src(info, data, length);
  jpeg_read_header(info, TRUE);
}

/* The part of the image that some view sees, with room for the filters. */
static void seen(const View *views, int n, int height, int width, int region[4]) {
  double low[2] = {1e9, 1e9}, high[2] = {0, 0};
  for (int i = 0; i < n; i++) {
    const View *v = views + i;
    double start[2] = {v->top, v->left}, length[2] = {v->height, v->width};
    int size[2] = {v->size_y, v->size_x};
    for (int d = 0; d < 2; d++) {
      double scale = length[d] / size[d];
      double room = v->bounded ? 0 : (v->cubic ? 2 : 1) * fmax(scale, 1) + 1;
      low[d] = fmin(low[d], floor(start[d] - room));
      high[d] = fmax(high[d], ceil(start[d] + length[d] + room));
    }
  }
  int limit[2] = {height, width};
  for (int d = 0; d < 2; d++) {
    region[d] = low[d] > 0 ? (int)low[d] : 0;
    region[d + 2] = high[d] < limit[d] ? (int)high[d] : limit[d];
  }
}

/* Decodes and cuts all views; a message if that cannot be done. Runs without
 * the GIL. */
static const char *decode(const uint8_t *data, size_t length, View *views,
                          int n, Errors *errors) {
  struct jpeg_decompress_struct info;
  set_errors(&info, errors);
  if (setjmp(errors->back)) {
    jpeg_destroy_decompress(&info);
    return errors->text;
  }
  read_header(&info, data, length);
  if (info.num_components != 1 && info.num_components != 3) {
    jpeg_destroy_decompress(&info);
    return "neither grey nor three-channel";
  }
  info.out_color_space = JCS_RGB;

  /* Giants are decoded at 1/2, 1/4 or 1/8, where every view still shrinks what
   * is left at least twofold. */
  double shrink = 16;
  for (int i = 0; i < n; i++) {
    shrink = fmin(shrink, views[i].height / views[i].size_y);
    shrink = fmin(shrink, views[i].width / views[i].size_x);
  }
  info.scale_num = 1;
  info.scale_denom = shrink >= 16 ? 8 : shrink >= 8 ? 4 : shrink >= 4 ? 2 : 1;
  int whole_height = info.image_height, whole_width = info.image_width;
  jpeg_calc_output_dimensions(&info);
  int height = info.output_height, width = info.output_width;
  for (int i = 0; i < n; i++) {
    View *v = views + i;
    /* So put that a NaN is refused. */
    if (!(v->top >= 0 && v->left >= 0 && v->height > 0 && v->width > 0 &&
          v->top + v->height <= whole_height + 1e-6 &&
          v->left + v->width <= whole_width + 1e-6)) {
      jpeg_destroy_decompress(&info);
      return "a box is not inside the image";
    }
    if (info.scale_denom > 1) { /* A box need not fall on whole pixels now. */
      double y = (double)height / whole_height, x = (double)width / whole_width;
      v->top *= y, v->height *= y, v->left *= x, v->width *= x;
    }
  }
  int region[4];
  seen(views, n, height, width, region);
  /* A pixel more on each side: upsampled chroma depends on its neighbours. */
  int top = region[0] > 0 ? region[0] - 1 : 0;
  int bottom = region[2] < height ? region[2] + 1 : height;
  JDIMENSION left = region[1] > 0 ? region[1] - 1 : 0;
  JDIMENSION columns =
      (region[3] + 1 < width ? region[3] + 1 : width) - left;

  /* A file that is cut short lacks its end marker: it is decoded to the end,
   * so that the damage shows whatever part of it is seen. */
  int complete = 0;
  for (size_t i = length > 256 ? length - 256 : 0; i + 1 < length; i++)
    complete |= data[i] == 0xFF && data[i + 1] == 0xD9;
  if (!complete) top = 0, bottom = height;

  jpeg_start_decompress(&info);
  if (left > 0 || (int)(left + columns) < width)
    jpeg_crop_scanline(&info, &left, &columns);
  size_t stride = 3 * (size_t)info.output_width;
  int rows = bottom - top;
  uint8_t *pixels = (uint8_t *)scratch(stride * rows + 16);
  if (!pixels) {
    jpeg_destroy_decompress(&info);
    return "out of memory";
  }
  if (top > 0) jpeg_skip_scanlines(&info, top);
  while ((int)info.output_scanline < bottom) {
    JSAMPROW lines[16];
    int at = info.output_scanline - top, ask = rows - at;
    if (ask > 16) ask = 16;
    for (int i = 0; i < ask; i++) lines[i] = pixels + stride * (at + i);
    jpeg_read_scanlines(&info, lines, ask);
  }
  int decoded = info.output_width;
  jpeg_destroy_decompress(&info);
  for (int i = 0; i < n; i++)
    if (!cut(views + i, pixels, stride, top, left, rows, decoded))
      return "out of memory";
  return NULL;
}

PyDoc_STRVAR(crops_doc,
"crops(data, boxes, options, outs)\n\n"
"Decodes a JPEG and cuts views out of it.\n\n"
"Args:\n"
"  data: bytes of the file.\n"
"  boxes: float64[n, 4], (top, left, height, width).\n"
"  options: int32[n, 3], flags: flip; bicubic instead of bilinear; whether the\n"
"    filter sees the pixels of the box alone, which then must be whole pixels.\n"
"  outs: n writable arrays uint8[height, width, 3] that take the views.\n\n"
"Raises:\n"
"  ValueError: it is damaged, or of a kind that is not handled here.");

static PyObject *crops(PyObject *self, PyObject *args) {
  (void)self;
  Py_buffer data, boxes, options;
  PyObject *outs;
  if (!PyArg_ParseTuple(args, "y*y*y*O!", &data, &boxes, &options,
                        &PyTuple_Type, &outs))
    return NULL;
  Py_ssize_t n = PyTuple_GET_SIZE(outs), held = 0;
  View *views = calloc(n ? n : 1, sizeof *views);
  Py_buffer *buffers = calloc(n ? n : 1, sizeof *buffers);
  const char *problem = NULL;
  Errors errors;
  if (!views || !buffers) {
    PyErr_NoMemory();
  } else if (!n || boxes.len != n * 4 * (Py_ssize_t)sizeof(double) ||
             options.len != n * 3 * (Py_ssize_t)sizeof(int32_t)) {
    PyErr_SetString(PyExc_TypeError, "boxes, options and outs do not agree");
  } else {
    const double *box = boxes.buf;
    const int32_t *option = options.buf;
    for (; held < n; held++, box += 4, option += 3) {
      Py_buffer *b = buffers + held;
      if (PyObject_GetBuffer(PyTuple_GET_ITEM(outs, held), b,
                             PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS))
        break;
      if (b->ndim != 3 || b->shape[2] != 3 || b->itemsize != 1 || !b->len ||
          b->len > INT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "outs must be uint8[height, width, 3]");
        PyBuffer_Release(b);
        break;
      }
      views[held] = (View){box[0], box[1], box[2], box[3],
                           (int)b->shape[0], (int)b->shape[1],
                           option[0], option[1], option[2], b->buf};
    }
    if (held == n) {
      Py_BEGIN_ALLOW_THREADS
      problem = decode(data.buf, data.len, views, (int)n, &errors);
      Py_END_ALLOW_THREADS
      if (problem) PyErr_SetString(PyExc_ValueError, problem);
    }
  }
  while (held > 0) PyBuffer_Release(buffers + --held);
  free(views);
  free(buffers);
  PyBuffer_Release(&data);
  PyBuffer_Release(&boxes);
  PyBuffer_Release(&options);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

/* Reads all coefficients, and of the pixels only the last row: to skip the whole
 * image would read nothing. */
static const char *skim(const uint8_t *data, size_t length, Errors *errors) {
  struct jpeg_decompress_struct info;
  set_errors(&info, errors);
  if (setjmp(errors->back)) {
    jpeg_destroy_decompress(&info);
    return errors->text;
  }
  read_header(&info, data, length);
  jpeg_start_decompress(&info);
  if (info.output_height > 1) jpeg_skip_scanlines(&info, info.output_height - 1);
  JSAMPROW line = (JSAMPROW)scratch(
      (size_t)info.output_width * info.output_components);
  if (line) jpeg_read_scanlines(&info, &line, 1);
  jpeg_destroy_decompress(&info);
  return line ? NULL : "out of memory";
}

PyDoc_STRVAR(entropy_doc,
"entropy(data)\n\n"
"Does the entropy decoding of a JPEG and next to nothing else: the least time\n"
"that any decoder takes. For benchmarks.\n\n"
"Args:\n"
"  data: bytes of the file.\n\n"
"Raises:\n"
"  ValueError: it is damaged, or no JPEG.");

static PyObject *entropy(PyObject *self, PyObject *args) {
  (void)self;
  Py_buffer data;
  if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
  Errors errors;
  const char *problem;
  Py_BEGIN_ALLOW_THREADS
  problem = skim(data.buf, data.len, &errors);
  Py_END_ALLOW_THREADS
  if (problem) PyErr_SetString(PyExc_ValueError, problem);
  PyBuffer_Release(&data);
  if (problem) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"crops", crops, METH_VARARGS, crops_doc},
    {"entropy", entropy, METH_VARARGS, entropy_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void) {
  if (pthread_key_create(&scratch_key, scratch_free)) {
    PyErr_SetString(PyExc_ImportError, "no thread-local storage left");
    return NULL;
  }
  return PyModule_Create(&module);
}
