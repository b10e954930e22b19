// The images, by their tags:
//
//   docker buildx bake -f docker/docker-bake.hcl --print       what would be built
//   docker buildx bake -f docker/docker-bake.hcl               all of them
//   docker buildx bake -f docker/docker-bake.hcl comfy0-3-64-torch2-8-0-cuda12-8-runtime
//   REPOSITORY=me/comfyfn docker buildx bake -f docker/docker-bake.hcl --push

variable "REPOSITORY" {
  default = "comfyfn"
}

// Ours, as pyproject.toml has it.
variable "FN" {
  default = "0.1.0"
}

// The day whose Python packages are taken: a build of tomorrow is one of today.
variable "PACKAGES_UNTIL" {
  default = "2026-11-20T00:00:00Z"
}

variable "SALAD_WORKER_URL" {
  default = ""
}

variable "SALAD_WORKER_SHA256" {
  default = ""
}

group "default" {
  targets = ["gpu", "cpu"]
}

target "common" {
  context    = "."
  dockerfile = "docker/Dockerfile"
  platforms  = ["linux/amd64"]
  args = {
    PACKAGES_UNTIL      = PACKAGES_UNTIL
    SALAD_WORKER_URL    = SALAD_WORKER_URL
    SALAD_WORKER_SHA256 = SALAD_WORKER_SHA256
  }
}

// CUDA 12.8 has the RTX 50 and wants a driver of 570 or later; 12.6 is for older drivers.
target "gpu" {
  inherits = ["common"]
  name     = replace("comfy${comfyui}-torch${build.torch}-cuda${build.cuda}-${flavour}", ".", "-")
  matrix = {
    comfyui = ["0.3.64"]
    flavour = ["runtime", "devel"]
    build = [
      { torch = "2.8.0", vision = "0.23.0", audio = "2.8.0", cuda = "12.8", image = "12.8.1" },
      { torch = "2.8.0", vision = "0.23.0", audio = "2.8.0", cuda = "12.6", image = "12.6.3" },
    ]
  }
  tags = ["${REPOSITORY}:comfy${comfyui}-fn${FN}-torch${build.torch}-cuda${build.cuda}-${flavour}"]
  args = {
    COMFYUI     = comfyui
    CUDA        = build.cuda
    CUDA_IMAGE  = build.image
    FLAVOUR     = flavour
    TORCH       = build.torch
    TORCHAUDIO  = build.audio
    TORCHVISION = build.vision
  }
}

target "cpu" {
  inherits = ["common"]
  name     = replace("comfy${comfyui}-torch${torch}-cpu", ".", "-")
  matrix = {
    comfyui = ["0.3.64"]
    torch   = ["2.8.0"]
  }
  tags = ["${REPOSITORY}:comfy${comfyui}-fn${FN}-torch${torch}-cpu"]
  args = {
    COMFYUI = comfyui
    FLAVOUR = "cpu"
    TORCH   = torch
  }
}
