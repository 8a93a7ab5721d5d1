// mb SHADER.wgsl X(ubo|tex|buf) ROWS COLS OUTPUTS C R  -- times 4-bit g32 linear with words/scales in textures
use wgpu::util::DeviceExt;
fn main() {
    pollster::block_on(run())
}
fn tex(device: &wgpu::Device, queue: &wgpu::Queue, words: &[u32], per: u32) -> wgpu::TextureView {
    let texels = words.len() as u32 / per;
    let w = 1024;
    let h = texels.div_ceil(w);
    let mut data = words.to_vec();
    data.resize((w * h * per) as usize, 0);
    let t = device.create_texture(&wgpu::TextureDescriptor {
        label: None,
        size: wgpu::Extent3d { width: w, height: h, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: if per == 4 { wgpu::TextureFormat::Rgba32Uint } else { wgpu::TextureFormat::R32Uint },
        usage: wgpu::TextureUsages::TEXTURE_BINDING | wgpu::TextureUsages::COPY_DST,
        view_formats: &[],
    });
    queue.write_texture(
        t.as_image_copy(),
        bytemuck::cast_slice(&data),
        wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(w * per * 4), rows_per_image: None },
        wgpu::Extent3d { width: w, height: h, depth_or_array_layers: 1 },
    );
    t.create_view(&Default::default())
}
fn cpu() -> f64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .filter_map(|d| std::fs::read_to_string(d.path().join("schedstat")).ok())
        .map(|s| s.split(' ').next().unwrap().parse::<f64>().unwrap())
        .sum::<f64>()
        / 1e9
}
async fn run() {
    let a: Vec<String> = std::env::args().collect();
    let (file, xk) = (&a[1], &a[2]);
    let n: Vec<u32> = a[3..].iter().map(|v| v.parse().unwrap()).collect();
    let (rows, cols, outs, c, r, lanes) = (n[0], n[1], n[2], n[3], n[4], n[5]);
    let mut d = wgpu::InstanceDescriptor::new_without_display_handle();
    d.backends = wgpu::Backends::VULKAN;
    d.flags = wgpu::InstanceFlags::empty();
    let inst = wgpu::Instance::new(d);
    let ad = inst.enumerate_adapters(wgpu::Backends::all()).await.into_iter().next().unwrap();
    let (device, queue) = ad.request_device(&wgpu::DeviceDescriptor::default()).await.unwrap();
    let mut s = 1u64;
    let mut rnd = move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 32) as u32
    };
    let words: Vec<u32> = (0..outs * cols / 8).map(|_| rnd()).collect();
    let scales: Vec<f32> = (0..outs * cols / 32).map(|_| rnd() as f32 / 4294967296.0 + 0.5).collect();
    let offs: Vec<f32> = (0..outs * cols / 32).map(|_| -(rnd() as f32 / 4294967296.0) * 8.0).collect();
    let x: Vec<f32> = (0..rows * cols).map(|_| rnd() as f32 / 2147483648.0 - 1.0).collect();
    let mut want = vec![0f64; (rows * outs) as usize];
    for o in 0..outs as usize {
        for k in 0..cols as usize {
            let q = (words[(o * cols as usize + k) / 8] >> (4 * (k % 8))) & 15;
            let g = (o * cols as usize + k) / 32;
            let w = (scales[g] * q as f32 + offs[g]) as f64;
            for i in 0..rows as usize {
                want[i * outs as usize + o] += w * x[i * cols as usize + k] as f64;
            }
        }
    }
    let wt = tex(&device, &queue, &words, 4);
    let st = tex(&device, &queue, bytemuck::cast_slice(&scales), 1);
    let ot = tex(&device, &queue, bytemuck::cast_slice(&offs), 1);
    let xb = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: &{
            let mut v: Vec<u8> = bytemuck::cast_slice(&x).to_vec();
            v.resize(v.len().max(65536), 0);
            v
        },
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::STORAGE,
    });
    // x texture: tr = transposed: texel (k of a block of 4 rows)
    let xw: Vec<u32> = if xk == "tr" {
        let mut v = vec![];
        for b in 0..rows / 4 {
            for k in 0..cols {
                for i in 0..4 {
                    v.push(x[((b * 4 + i) * cols + k) as usize].to_bits());
                }
            }
        }
        v
    } else {
        bytemuck::cast_slice(&x).to_vec()
    };
    let xt = tex(&device, &queue, &xw, 4);
    let y = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: (rows * outs * 4) as u64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let p = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(&[rows, cols, outs, cols / 32]),
        usage: wgpu::BufferUsages::UNIFORM,
    });
    let src = std::fs::read_to_string(file).unwrap();
    let m = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(src.into()),
    });
    let t0 = std::time::Instant::now();
    let pl = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &m,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let tc = t0.elapsed();
    let b = |i: u32, res| wgpu::BindGroupEntry { binding: i, resource: res };
    let xr = match &xk[..] {
        "ubo" | "buf" => xb.as_entire_binding(),
        _ => wgpu::BindingResource::TextureView(&xt),
    };
    let bg = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pl.get_bind_group_layout(0),
        entries: &[
            b(0, xr),
            b(1, wgpu::BindingResource::TextureView(&wt)),
            b(2, wgpu::BindingResource::TextureView(&st)),
            b(3, wgpu::BindingResource::TextureView(&ot)),
            b(4, y.as_entire_binding()),
            b(5, p.as_entire_binding()),
        ],
    });
    let read = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: y.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let gx = outs.div_ceil(c * lanes);
    let gy = rows.div_ceil(r);
    let reps = ((2e9 / (rows as f64 * cols as f64 * outs as f64)) as usize).clamp(1, 2000);
    let mut best = f64::MAX;
    let mut bc = f64::MAX;
    for it in 0..6 {
        let mut e = device.create_command_encoder(&Default::default());
        {
            let mut ps = e.begin_compute_pass(&Default::default());
            ps.set_pipeline(&pl);
            ps.set_bind_group(0, &bg, &[]);
            for _ in 0..(if it == 0 { 1 } else { reps }) {
                ps.dispatch_workgroups(gx, gy, 1);
            }
        }
        e.copy_buffer_to_buffer(&y, 0, &read, 0, y.size());
        let t = std::time::Instant::now();
        let c0 = cpu();
        queue.submit([e.finish()]);
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        if it > 0 {
            bc = bc.min((cpu() - c0) / reps as f64);
            best = best.min(t.elapsed().as_secs_f64() / reps as f64);
        }
    }
    read.slice(..).map_async(wgpu::MapMode::Read, |_| ());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&read.slice(..).get_mapped_range().unwrap());
    let mut num = 0.0;
    let mut den = 0.0;
    for (w, g) in want.iter().zip(&got) {
        num += (w - *g as f64).powi(2);
        den += w * w;
    }
    println!(
        "{file} {rows}x{cols}x{outs}: cpu {:.2} G/s wall {:.2} G/s  {:.1} us  nmse {:.1e} compile {:.0} ms [{}]",
        rows as f64 * cols as f64 * outs as f64 / bc * 2e-9,
        rows as f64 * cols as f64 * outs as f64 / best / 1e9,
        best * 1e6,
        num / den,
        tc.as_secs_f64() * 1e3,
        ad.get_info().name
    );
}
