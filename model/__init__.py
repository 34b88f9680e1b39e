"""Images in, scores out: conversations, slots, images, Qwen2-VL, adapters. No Beam."""
