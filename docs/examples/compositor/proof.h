/* A frame that proves itself: its first pixels are a magic number, the number of the frame and a checksum of that and
 * all pixels that follow. Clients of the tests draw such frames, and the compositor finds out whether it sees them as
 * they were drawn. Other frames are just shown. */
#ifndef PROOF_H
#define PROOF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROOF_PIXELS = 4 };
#define PROOF_MAGIC UINT32_C(0x4e4f5347)

/* FNV-1a, a pixel at a time. */
static inline uint64_t proof_checksum(const uint32_t* pixels, size_t count) {
    uint64_t checksum = (UINT64_C(0xcbf29ce484222325) ^ pixels[1]) * UINT64_C(0x100000001b3);
    for (size_t i = PROOF_PIXELS; i < count; ++i) checksum = (checksum ^ pixels[i]) * UINT64_C(0x100000001b3);
    return checksum;
}

static inline void proof_put(uint32_t* pixels, size_t count, uint32_t number) {
    pixels[0] = PROOF_MAGIC;
    pixels[1] = number;
    const uint64_t checksum = proof_checksum(pixels, count);
    pixels[2] = (uint32_t)checksum;
    pixels[3] = (uint32_t)(checksum >> 32);
}

/* Whether it means to prove itself. */
static inline bool proof_is_there(const uint32_t* pixels, size_t count) {
    return count > PROOF_PIXELS && pixels[0] == PROOF_MAGIC;
}

/* Whether it is the frame `number`, every pixel as it was drawn. */
static inline bool proof_holds(const uint32_t* pixels, size_t count, uint32_t number) {
    const uint64_t checksum = proof_checksum(pixels, count);
    return pixels[1] == number && pixels[2] == (uint32_t)checksum && pixels[3] == (uint32_t)(checksum >> 32);
}

#endif
